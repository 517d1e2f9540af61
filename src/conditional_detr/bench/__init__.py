"""Speed and memory of detectors, side by side."""
