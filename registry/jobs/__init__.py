"""Jobs: requests for training, evaluation, merge and the like, the attempts at them, and what they report."""
