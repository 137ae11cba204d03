"""What names mean by the registry: its tables, looked up again and again, and kept for when it is away."""
