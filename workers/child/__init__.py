"""The child process that each job runs in, and how its parent starts, hears and ends it."""
