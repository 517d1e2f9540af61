"""Pre-training without labels: find the places of patches that were cut out of an image (UP-DETR)."""
