"""Benchmark the speed and memory of detectors."""
