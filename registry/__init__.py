"""The registry: the database is the truth, and every change comes through its HTTP API."""
