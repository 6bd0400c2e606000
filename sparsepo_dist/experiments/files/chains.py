"""Runs that need others of their experiment: as their start, their oracle, or what makes their pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sparsepo_dist.experiments.files.runs import PREPARE, SFT, Run, with_fields
from sparsepo_dist.experiments.files.training import OWN, Preparation
from sparsepo_dist.experiments.stages.stage import filled, placeholders


def linked(runs: Sequence[Run]) -> list[Run]:
    """Runs in whose options a method's name in braces has become that of its run: the one with the same values of all
    that both of them set.

    Raises:
        ValueError: the run that a name stands for is none of those before, or is not one alone.
    """
    found: list[Run] = []
    for run in runs:
        own = run.training.prepare
        named = placeholders({**run.options, **({} if own is None else own.options)})
        known = {
            name: f"{{{_run_of(name, run, found)}}}" for name in sorted(named & {one.method for one in runs} - {SFT})
        }
        options = filled(run.training.options, known | {OWN: f"{{{own_stage(run)}}}"})
        if own is not None:
            own = own._replace(options=_of_own(run, own, known))
        training = dataclasses.replace(run.training, options=options, prepare=own)
        found.append(dataclasses.replace(run, values=filled(run.values, known), training=training))
    return found


def own_stage(run: Run) -> str:
    """The stage of a run's own preparation."""
    return f"{PREPARE}-{run.name}"


def others_of(value: object, runs: Sequence[Run]) -> list[str]:
    """Names of runs but the SFT start, and of their preparations, that stand in braces in a value."""
    named = placeholders(value)
    return [
        name for run in runs if run.name != SFT for name in (run.name, own_stage(run)) if name in named
    ]  # fmt: skip


def _run_of(method: str, run: Run, before: Sequence[Run]) -> str:
    alike = [other for other in before if other.method == method and _agree(other.values, run.values)]
    if len(alike) != 1:
        found = ", ".join(other.name for other in alike) or "none"
        raise ValueError(
            f"line {run.training.line}: methods.{run.method}: {{{method}}} must stand for one run of a method before "
            f"it, with the values that {run.name} has: found {found}"
        )
    return alike[0].name


def _agree(a: Mapping[str, object], b: Mapping[str, object]) -> bool:
    return all(a[name] == b[name] for name in a.keys() & b.keys())


def _of_own(run: Run, own: Preparation, known: Mapping[str, str]) -> dict[str, Any]:
    try:
        return dict(with_fields(own.options, run, known))
    except KeyError as error:
        raise ValueError(
            f"line {own.line}: {own.field}: {{{error.args[0]}}} is neither {PREPARE}, {SFT}, a method nor a field of "
            "runs"
        ) from None
