"""What an experiment's engine hands to what draws its tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

DRAWS = (
    "table1", "table2", "table3", "table4", "table5", "ablation", "figure2", "figure3", "figure5", "figure6", "figure7",
    "figure8", "rivals", "samples", "starts", "summary",
)  # fmt: skip
"""Names of the tables and figures that an experiment's file may ask for."""
START = "start"
"""Method of a model that runs start from and that the experiment did not train: a public one, say."""


@dataclass(frozen=True)
class TrainedRun:
    """A run of an experiment that is done, with what was measured on it."""

    name: str
    """Unique in the experiment, such as `sparsepo_common-beta0.8-seed1`."""
    method: str
    """START, sft, dpo, simpo, dpop, tdpo1, tdpo2, mapo, sparsepo_common, sparsepo_independent, or a name of the file's
    own."""
    values: Mapping[str, Any]
    """What the grid set: `{"objective.beta": 0.8, "training.seed": 1}`."""
    run: Path | None
    """The run's folder: run.json, metrics.jsonl and so on; the weights may be gone. None of a START."""
    identity: str
    """Hash of all that the run depends on; of a START of all that its first suite does."""
    command: str
    """How it was trained; empty of a START."""
    results: Mapping[str, Path]
    """Name of a suite -> the results folder that its driver wrote."""
    drivers: Mapping[str, str]
    """Name of a suite -> name of its driver: frontier, code, summary, leaderboard or preference."""


class KnownFields(NamedTuple):
    """What today's code says of a run's configuration, for runs that are older than it."""

    defaults: Mapping[str, Any] = {}
    """By dotted name, what a field has where nothing is said."""
    used: Mapping[str, Sequence[str]] = {}
    """By name of an objective, the fields of section `objective` that make a difference."""


NOTHING_KNOWN = KnownFields()


@dataclass(frozen=True)
class Experiment:
    """The runs of an experiment, and what its file asks to be drawn of them."""

    name: str
    runs: tuple[TrainedRun, ...]
    """Those that are done; the start too, as method `sft` where the experiment trains it, else `start`."""
    missing: Mapping[str, str]
    """Name of a run that is not there -> why: that it failed and how, or that it was not run yet."""
    selected: Mapping[str, str]
    """Method -> name of the run that won its grid, where the file selects."""
    draws: tuple[str, ...]
    """What the file asks for, of DRAWS."""
