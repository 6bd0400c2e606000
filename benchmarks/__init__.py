"""Measured comparisons: ratios of things run in turn in one process, never one absolute time."""
