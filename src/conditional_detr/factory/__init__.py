"""Building models from names and configurations."""
