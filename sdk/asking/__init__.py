"""Asking a version something, by an engine program on this machine that stays for the next question."""
