"""A trained model as a graph for other engines, and the proof that it is the same model."""
