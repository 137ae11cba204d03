"""Datasets: rows by content digest."""
