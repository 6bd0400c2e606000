"""Completions of prefixes, ranked by a sentiment score: the paper's controlled generation."""
