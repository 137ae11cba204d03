"""What serves computing on CPUs alone: the path of a card is read without this room."""
