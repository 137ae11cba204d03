"""Where things came from, and what came of them: read over the tables of the earlier rooms."""
