"""Reading, resizing and normalising images; postprocessing of predictions."""
