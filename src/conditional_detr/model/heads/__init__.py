"""What is predicted from decoder embeddings.

A head is a module (Decoded, Memory) → [L, B, Q, …] that says in `predicts` what `DetectionOutput` calls its output.
"""
