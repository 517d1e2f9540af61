"""Export a trained model as a graph for other engines, with a proof that it gives the same results."""
