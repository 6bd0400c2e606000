"""Runs put together: those that differ in seeds alone are one variant, whose spread is the interval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sparsepo_dist.experiments.contracts import START, TrainedRun

BETA = "objective.beta"
STARTS = (START, "sft")
"""Methods of what the others start from."""
_NAMES = {
    "sft": "SFT",
    "dpo": "DPO",
    "simpo": "SimPO",
    "dpop": "DPOP",
    "tdpo1": "TDPO v1",
    "tdpo2": "TDPO v2",
    "mapo": "MaPO",
    "sparsepo_common": "SparsePO, common mask",
    "sparsepo_independent": "SparsePO, independent masks",
}


@dataclass(frozen=True, eq=False)
class Variant:
    """Runs of one method and one setting, one a seed. Equal only to itself."""

    method: str
    settings: tuple[tuple[str, str], ...]
    """What the grid set besides seeds and beta; values as text, as JSON where they are none."""
    beta: float | None
    runs: tuple[TrainedRun, ...]

    @property
    def label(self) -> str:
        """The method and what was set, in words."""
        return ", ".join([self.kind, *([] if self.beta is None else [f"beta {self.beta:g}"])])

    @property
    def kind(self) -> str:
        """The method and what was set but beta, in words."""
        return ", ".join(filter(None, [shown(self.method), self.set]))

    @property
    def set(self) -> str:
        """What was set besides beta, in words."""
        return ", ".join(f"{_last(name)} {value}" for name, value in self.settings)

    @property
    def names(self) -> list[str]:
        """Of its runs."""
        return [run.name for run in self.runs]


def shown(method: str) -> str:
    """A method as the paper calls it; of a name that begins with a method's, what follows stands behind it."""
    known = max((name for name in _NAMES if method == name or method.startswith(f"{name}_")), key=len, default=None)
    if known is None:
        return method
    rest = method[len(known) :].strip("_").replace("_", " ")
    return f"{_NAMES[known]}, {rest}" if rest else _NAMES[known]


def seed(run: TrainedRun) -> str:
    """What tells a run from the others of its variant; empty where the grid has no seeds."""
    return ", ".join(f"{value}" for name, value in sorted(run.values.items()) if _is_seed(name))


def beta(run: TrainedRun) -> float | None:
    """None where it has none, as SFT, or where none is known."""
    value = run.values.get(BETA)
    return None if value is None else float(value)


def variants(runs: Sequence[TrainedRun]) -> list[Variant]:
    """In the order of methods, then of beta."""
    found: dict[tuple[str, tuple[tuple[str, str], ...], float | None], list[TrainedRun]] = {}
    for run in runs:
        settings = tuple(
            (name, value if isinstance(value, str) else json.dumps(value))
            for name, value in sorted(run.values.items())
            if not _is_seed(name) and name != BETA
        )
        found.setdefault((run.method, settings, beta(run)), []).append(run)
    order = methods(runs)
    made = [Variant(method, settings, at, tuple(same)) for (method, settings, at), same in found.items()]
    return sorted(made, key=lambda one: (order.index(one.method), one.settings, -1.0 if one.beta is None else one.beta))


def over_beta(found: Sequence[Variant]) -> tuple[list[Variant], list[str]]:
    """Variants that belong in figures over beta, and what is left out of them: kinds that stand at one beta, as those
    of ablations do, beside kinds with a grid."""
    at = {kind: {one.beta for one in found if one.kind == kind} for kind in dict.fromkeys(one.kind for one in found)}
    alone = [kind for kind, betas in at.items() if len(betas) < 2]
    if len(alone) == len(at):
        return list(found), []
    return [one for one in found if one.kind not in alone], alone


def left_out(kinds: Sequence[str]) -> tuple[str, ...]:
    """The sentence on `over_beta`'s."""
    return (f"Not drawn, as they stand at one beta: {'; '.join(kinds)}.",) if kinds else ()


def methods(runs: Sequence[TrainedRun]) -> list[str]:
    """Each once: the start, the paper's in its order, then others as they come."""
    there = list(dict.fromkeys(run.method for run in runs))
    known = list(_NAMES)
    return sorted(there, key=lambda method: -1 if method == START else next(
        (place for place, name in reversed(list(enumerate(known))) if method == name or method.startswith(f"{name}_")),
        len(known),
    ))  # fmt: skip


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2].endswith("seed")


def _last(name: str) -> str:
    return name.rpartition(".")[2].replace("_", " ")
