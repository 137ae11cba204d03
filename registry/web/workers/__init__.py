"""The page of workers and queues."""
