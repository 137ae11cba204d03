"""Versions side by side: how they were made, what they scored, and what their rows say against one of them."""
