"""What is found out about the rows of a file: which are equal, what is odd in them, and how they are split in two."""
