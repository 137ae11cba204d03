"""What is counted, and how monitoring reads it."""
