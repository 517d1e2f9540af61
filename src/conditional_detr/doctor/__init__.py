"""What is wrong with a data set, and a copy without it."""
