"""Reads the rows of datasets apart from the server: in a process of its own, with limits of memory and time."""
