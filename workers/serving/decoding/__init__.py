"""Tokens in and tokens out: a base, the versions over it, and the thread that answers questions over them together."""
