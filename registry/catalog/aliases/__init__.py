"""Aliases: movable names of versions, moved by compare-and-set."""
