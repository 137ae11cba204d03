"""The machine that a worker runs on: its memory, its bases, its folders and logs."""
