"""Read, resize and normalise images, and postprocess predictions."""
