"""Bases: what a fingerprint stands for, derived from bytes; and what each namespace calls it and says about it."""
