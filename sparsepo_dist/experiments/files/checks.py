"""Trainings of an experiment's file are looked at as `launch/train.py` would look at them, before anything is run."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jsonargparse import ArgumentParser

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.files.runs import SFT, Run, arguments_of
from sparsepo_dist.experiments.stages.stage import filled, placeholders
from sparsepo_dist.objectives import compose
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.parsing import check_field, parse_arguments, train_parser


def check_runs(file: Path, runs: Iterable[Run]) -> None:
    """Read the first run of each method whole, and of the others what grids set.

    Raises:
        UserError: a value is none that its field takes, or they do not go together.
    """
    parser = _parser()
    of_method: dict[str, list[Run]] = {}
    for run in runs:
        of_method.setdefault(run.method, []).append(run)
    for method, (first, *others) in of_method.items():
        place = SFT if first.name == SFT else f"methods.{method}"
        try:
            for name, line in first.training.lines.items():
                check_field(name, line)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None
        try:
            configuration_of(first)
            parser.parse_args([f"--{name}={value}" for name, value in sorted(_values(others))])
        except UserError as error:
            raise UserError(f"{file}: line {first.training.line}: {place}: {error}") from None


@cache
def _parser() -> ArgumentParser:
    return train_parser()


def configuration_of(run: Run) -> RunConfig:
    """The configuration that a run will have, but for the folders of stages.

    Raises:
        UserError: a value is none that its field takes, or they do not go together.
    """
    config = parse_arguments(_parser(), [f"--recipe={run.training.recipe}", *_arguments(run)])[0]
    config.validate()
    compose(config.objective, config.masks)
    return config


def _arguments(run: Run) -> list[str]:
    """Names of stages stand for folders, which need not be there yet."""
    return [filled(word, {name: f"/{name}" for name in placeholders(word)}) for word in arguments_of(run.options)]


def _values(runs: Iterable[Run]) -> set[tuple[str, str]]:
    words = (word.removeprefix("--").partition("=") for run in runs for word in arguments_of(run.values))
    return {(name, value) for name, _, value in words}
