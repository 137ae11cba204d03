"""Requests in and answers out: who may ask, for which host, what an engine gets of a request, and what a caller gets of its answer."""
