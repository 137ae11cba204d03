"""How a worker process starts, is told of work, and ends."""
