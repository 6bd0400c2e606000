"""Reward against response-level KL: what models of several methods are worth for how far they went."""
