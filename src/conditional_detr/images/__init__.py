"""Images: reading, resizing, normalising."""
