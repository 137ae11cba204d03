"""How a worker process starts, hears of work, and stops."""
