"""From an adapter or a model in a folder to a file for another program."""
