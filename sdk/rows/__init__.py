"""What is found out about the rows of a file: what equals what, what is odd in them, and how they are split in two."""
