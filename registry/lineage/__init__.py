"""Where things came from, and what was made from them: read from the tables of the earlier rooms."""
