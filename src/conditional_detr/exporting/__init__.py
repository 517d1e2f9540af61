"""Export a trained model as a graph for other engines, and verify that it gives the same results."""
