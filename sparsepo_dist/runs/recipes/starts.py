"""Starts that another recipe has to train first: `model.path: trained-by:launch/recipes/dialogue/sft.yaml`."""

from __future__ import annotations

import dataclasses

from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.recipes.files import read_recipe, value_of

TRAINED_BY = "trained-by:"


def check_start(config: RunConfig) -> None:
    """Raise UserError where the recipe leaves the model to start from to the user, naming what trains it."""
    path = config.model.path
    if path.startswith(TRAINED_BY):
        recipe = path.removeprefix(TRAINED_BY)
        raise UserError(
            f"model.path: this recipe starts from the model that {recipe} trains, not from a base model. Run that "
            f"first (launch/train.py --recipe {recipe}), and name what it wrote: --model.path RUN/final"
        )


def untrained_start(config: RunConfig) -> RunConfig:
    """For what needs a model's shape or tokenizer alone: the start replaced by the model that its recipe trains.

    Raises:
        UserError: that recipe cannot be read, or names no model.
    """
    if not config.model.path.startswith(TRAINED_BY):
        return config
    recipe = config.model.path.removeprefix(TRAINED_BY)
    path = value_of(read_recipe(recipe), "model.path")
    if path is None or path.startswith(TRAINED_BY):
        raise UserError(f"model.path: the recipe {recipe}, which trains it, names no model itself; give --model.path")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, path=path))
