"""Whether one of two models really scores better on the same rows, or only by chance: intervals and paired tests.

Plain arrays in, numbers out; numpy is imported where it is used. Everything is built on one quantity, the ratio Σu/Σm
over clusters of rows: u is how much more the second model scored in a cluster, and m the weight of the cluster, its
number of rows or tokens. Sources: Miller, "Adding Error Bars to Evals" (arXiv 2411.00640), for paired differences,
clusters and power; Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 12, for the studentised
interval.
"""
