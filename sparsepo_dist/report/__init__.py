"""Draws what a run's folder holds, from its files alone: figures, token heat maps, a page, a model card."""
