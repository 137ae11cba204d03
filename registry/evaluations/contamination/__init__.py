"""Rows of an evaluation that its target, or what that came from, was trained on."""
