"""Optimiser, schedules and averages."""
