"""Data sets in other formats than COCO, read as COCO contents."""
