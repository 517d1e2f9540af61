"""Check a data set for faults and write a repaired copy."""
