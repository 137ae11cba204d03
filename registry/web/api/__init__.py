"""The page of the API, for authors of programs."""
