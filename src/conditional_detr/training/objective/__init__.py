"""Losses of a batch: matching, loss terms and auxiliary losses."""
