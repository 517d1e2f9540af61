"""From a batch to losses."""
