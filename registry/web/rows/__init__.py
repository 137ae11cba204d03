"""Rows: those that a training saw first, and those of evaluations."""
