"""Attention maps of a detector."""
