"""Looks at held-out rows during a training: their scores, what is kept of them, and what is chosen by them."""
