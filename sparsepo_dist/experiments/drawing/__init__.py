"""Tables, figures and the page of an experiment, out of what its runs and drivers left. Loads no model."""

from sparsepo_dist.experiments.drawing.page import build

__all__ = ["build"]
