"""Experiments: what the paper reports, from data to figures."""
