"""Whether one of two models scores better on the same rows, or by chance: intervals and paired tests.

Plain arrays in, numbers out; numpy is imported where it is used. Everything stands on one quantity, the ratio
Σu/Σm over clusters of rows: u is what the second model scored more in a cluster, and m what it weighs, its rows or its
tokens. Sources: Miller, "Adding Error Bars to Evals" (arXiv 2411.00640), for paired differences, clusters and power;
Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 12, for the studentised interval.
"""
