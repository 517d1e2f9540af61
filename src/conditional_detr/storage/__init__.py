"""Files on disk and on the Hub."""
