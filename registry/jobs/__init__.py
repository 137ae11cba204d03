"""Jobs: requests for training, evaluation and merge, the attempts at them, and what they report."""
