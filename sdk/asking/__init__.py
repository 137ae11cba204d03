"""Asking a version something: the engine program as a resident of this home, and the calls to it."""
