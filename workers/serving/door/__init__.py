"""Requests in and answers out, over a private socket, as OpenAI's routes are."""
