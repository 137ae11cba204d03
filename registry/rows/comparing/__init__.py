"""Scores of several targets, row by row, and what they show: apart from the server, if there are many."""
