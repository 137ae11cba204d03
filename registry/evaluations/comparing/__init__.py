"""Comparing targets that were scored on the same rows, row by row."""
