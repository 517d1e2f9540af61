"""Readers for data sets in other formats than COCO. Each returns COCO content."""
