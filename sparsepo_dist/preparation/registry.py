"""What can be prepared, by name; each is a floor of this room, which is loaded when it is asked for."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.work import Work

NAMES = {
    "sentiment": "completions of prefixes, drawn from a model and ranked by a sentiment score",
    "dialogue": "Anthropic HH",
    "summaries": "human feedback on summaries of Reddit posts",
    "code": "programs for MBPP's problems that pass their unit tests, and that fail",
    "mix": "argilla/dpo-mix-7k",
    "pairs": "a policy's own responses to any prompts, ranked by a reward",
}


@dataclass(frozen=True)
class Plan:
    """What a preparation is going to do, before anything of it is done."""

    settings: Mapping[str, Any]
    """All that decides what is written besides sources and seed, as JSON has it."""
    sources: Mapping[str, Any]
    """What it reads and with what (`sources.source_record`, a model's hash), by the option that names it, as JSON."""
    make: Callable[[Work, Card], None]
    """Writes the files (`Work.write`) and says in the card what was left out and counted. What takes long is done in
    parts (`Work.part`, `Work.in_portions`): after a kill it is called again, finds those, and must count the same."""


@dataclass(frozen=True)
class Preparation:
    """One name of the list: a floor's `run.PREPARATION`."""

    description: str
    """Of `sparsepo prepare NAME --help`."""
    add_options: Callable[[argparse.ArgumentParser], None]
    """Adds its own options; `--output` and `--seed` are there for all."""
    plan: Callable[[argparse.Namespace], Plan]
    """Checks the options and looks at the sources. Raises UserError."""


def preparation(name: str) -> Preparation:
    """The preparation of a name in NAMES."""
    found = importlib.import_module(f"sparsepo_dist.preparation.{name}.run").PREPARATION
    assert isinstance(found, Preparation)
    return found
