"""Prediction heads on the decoder embeddings.

A head is a module (Decoded, Memory) → [L, B, Q, …]. Its attribute `predicts` is the name of its output in `DetectionOutput`.
"""
