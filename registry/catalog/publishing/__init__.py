"""How a version comes to be: bytes, then name."""
