"""The child process in which each job runs, and how its parent starts it, listens to it and ends it."""
