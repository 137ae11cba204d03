"""The catalogue, and the pages of an adapter."""
