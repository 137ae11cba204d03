"""From an adapter or a model, in the registry or a folder, to a file for another program."""
