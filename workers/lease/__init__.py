"""Claiming a job, holding it by heartbeats, and handing it in."""
