"""Datasets: files of rows, identified by the digest of their content."""
