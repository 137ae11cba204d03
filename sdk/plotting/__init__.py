"""Curves of trainings as SVG, as PNG, and as characters on a terminal: plain functions of their series."""
