"""What a worker does with one job: prepare its inputs, run the child, hand in the result. One file for each kind."""
