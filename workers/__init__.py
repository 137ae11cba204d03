"""Workers: clients of the registry that train, evaluate, merge and combine, each job in a child process of its own."""
