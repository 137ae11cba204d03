"""What runs before our packages are imported. Its name is nobody else's, and it needs the standard library alone."""
