"""Policies, approvals, decisions, and the commands that move aliases through them."""
