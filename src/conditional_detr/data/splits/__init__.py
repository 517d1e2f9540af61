"""Splits of a data set: their counts, and what one says about another."""
