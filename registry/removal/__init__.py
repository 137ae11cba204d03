"""Removal: retention rules, and the collection of what nothing names any more. The only room that takes bytes away."""
