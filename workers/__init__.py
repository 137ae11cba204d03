"""Workers: clients of the registry that train, evaluate and merge, each job in a child process of its own."""
