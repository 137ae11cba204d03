"""Signatures: who vouches for a manifest. The registry keeps them, and may take none but its own keys'."""
