"""The page of a version."""
