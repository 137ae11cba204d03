"""Training an adapter, and going on from a checkpoint."""
