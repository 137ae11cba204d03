"""What is particular to trainings, evaluations and merges."""
