"""File formats and names that client, registry and workers read alike; the standard library only."""
