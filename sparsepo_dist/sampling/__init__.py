"""Texts sampled from a model: what a response is, and what draws it."""
