"""Sweeps: trainings with several settings, and which of them is the best."""
