"""A base and an adapter as a model."""
