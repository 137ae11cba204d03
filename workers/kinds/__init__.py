"""What a worker does with one job: prepare its inputs, run the child, hand in what it made. One file for each kind."""
