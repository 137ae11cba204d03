"""Curves of trainings for pages: as numbers for a script, as a picture without one, and as tables."""
