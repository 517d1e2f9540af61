"""Devices, threads, random number generators and bfloat16 support."""
