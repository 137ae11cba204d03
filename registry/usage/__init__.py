"""What counts towards a namespace's quotas, and how much it may have."""
