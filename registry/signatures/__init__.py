"""Signatures: who vouches for a manifest. The registry keeps them, and may accept only those by its own keys."""
