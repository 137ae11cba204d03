"""Evaluations: scores of a version, or a bare base, on a dataset. Appended, never edited."""
