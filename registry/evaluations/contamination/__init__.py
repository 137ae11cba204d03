"""Rows of an evaluation on which its target, or one of the target's ancestors, was trained."""
