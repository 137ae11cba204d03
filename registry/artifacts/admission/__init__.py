"""Checks that an adapter's files must pass before a version of them becomes ready."""
