"""A recipe with a base is for one method: another objective on the command line keeps that one's constants."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sparsepo_dist.errors import UserError
from sparsepo_dist.objectives.config import ObjectiveConfig
from sparsepo_dist.runs.recipes.files import RecipeFile, read_recipe, value_of

_METHOD = "objective.name"
_CONSTANTS = ("objective.beta", "training.learning_rate")


def other_method(files: Sequence[RecipeFile], objective: ObjectiveConfig, given: Collection[str]) -> str | None:
    """A sentence where a recipe's constants are another method's, with the recipe beside it that has the right ones.

    Args:
        files: of the recipe that has the last word.
        objective: the run's.
        given: fields of the command line.
    """
    here, own = files[-1], value_of(files, _METHOD)
    if here.base is None or own is None or own == objective.name or set(_CONSTANTS) <= set(given):
        return None
    beside = _siblings(files, objective.name)
    remedy = f"{' and '.join(beside)} {'has' if len(beside) == 1 else 'have'} those for it" if beside else (
        f"no recipe in {here.path.parent} is for it"
    )  # fmt: skip
    options = " and ".join(f"--{name}" for name in _CONSTANTS)
    return (
        f"objective.name is {objective.name}, but the values in {here.path} are for {own}, beta and learning rate "
        f"among them: {remedy}; {options} say that you mean others"
    )


def _siblings(files: Sequence[RecipeFile], method: str) -> list[str]:
    """Recipes of a method in the same folder that lie on the same file at the bottom."""
    lowest, own = files[0].path, files[-1].path
    found = []
    for path in sorted(own.parent.glob("*.yaml")):
        try:
            other = read_recipe(str(path))
            if len(other) > 1 and other[0].path.samefile(lowest) and value_of(other, _METHOD) == method:
                found.append(str(path))
        except UserError:
            continue  # a file that is not used here is no reason to stop
    return found
