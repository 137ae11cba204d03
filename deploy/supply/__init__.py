"""What this product is made of: locks of what it installs, a list of it for each release, and whether it is known to be unsafe."""
