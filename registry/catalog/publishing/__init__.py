"""How a version is made: first the bytes, then the name."""
