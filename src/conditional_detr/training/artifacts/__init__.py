"""Files and messages that a run produces."""
