"""Requests that carry a key are answered once, however often they are sent."""
