"""What is found out about versions from their records and files: engines that can serve them, their effect, how two differ."""
