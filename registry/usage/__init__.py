"""What a namespace pays for what it refers to, and how much it may have."""
