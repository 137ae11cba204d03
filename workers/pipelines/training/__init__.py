"""Training an adapter, and resuming from a checkpoint."""
