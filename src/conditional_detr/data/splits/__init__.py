"""Splits of a data set: names, locations, counts, and conventions that all splits share."""
