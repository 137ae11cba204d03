"""How a worker process starts, learns of work, and stops."""
