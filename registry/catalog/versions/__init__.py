"""Versions: found by a ref, shown, and moved from state to state."""
