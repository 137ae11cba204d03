"""Requests with a key are run once, however often they are sent."""
