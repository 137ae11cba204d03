"""File formats and names that client, registry and workers read in the same way; the standard library only."""
