"""Tables of all variants, with intervals, and of all runs; of methods side by side; the ablation's differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo_dist.evaluation.tables import Column
from sparsepo_dist.experiments.contracts import TrainedRun
from sparsepo_dist.experiments.drawing.numbers.grouping import Variant, seed, shown, variants
from sparsepo_dist.experiments.drawing.numbers.intervals import (
    ANYWHERE,
    LEGEND,
    POSITIVE,
    SHARE,
    Interval,
    mean_over_prompts,
    over_pairs,
    over_seeds,
)
from sparsepo_dist.experiments.drawing.numbers.reading import MASKS, Collected, mean_of
from sparsepo_dist.experiments.drawing.parts import RUNS, Section, Table

_BASE = "dpo"
_OF_TIME = (
    "Time of a step: median over the steps of a run, against the median of DPO's runs; runs that train at once on one "
    "machine disturb each other. References are read from a cache where the experiment has one."
)
_ACCURACY, _TIES, _PAIRS = "rewards/accuracies", "rewards/ties", "pairs"


_SHARES = ("accuracy", "ties", *MASKS)


def summary(collected: Collected, folder: Path) -> Section:
    """Variants with intervals over seeds, then every run."""
    suites = collected.suites("frontier")
    shared = [Column("method", "Method"), Column("beta", "beta", "g"), Column("settings", "Set besides")]
    of_variants = [
        {"method": shown(v.method), "beta": v.beta, "settings": v.set or None, **measured(collected, v), RUNS: v.names}
        for v in variants(collected.runs)
    ]
    of_runs = [
        {"run": run.name, "seed": seed(run) or None, **_of_run(collected, run), RUNS: [run.name]}
        for run in collected.runs
    ]
    tables = (
        Table("summary", "All variants", (*shared, *columns(suites)), of_variants, (LEGEND,)),
        Table("summary-runs", "All runs", (Column("run", "Run"), Column("seed", "Seed"), *columns(suites)[1:]), of_runs,
              (LEGEND,)),
    )  # fmt: skip
    return Section("Summary", tables)


def rivals(collected: Collected, folder: Path) -> Section:
    """A line for each variant: reward, KL, accuracy, and the time of a step where DPO's is 1; the start first."""
    title, suites, found = "Objectives side by side", collected.suites("frontier"), variants(collected.runs)
    if not found:
        return Section(title, notes=("Nothing to compare: no run is done.",))
    times = {variant: _step_times(collected, variant) for variant in found}
    base = [time for variant in found if variant.kind == shown(_BASE) for time in times[variant]]
    rows = []
    for variant in found:
        row = {"method": variant.kind, "beta": variant.beta, **measured(collected, variant), RUNS: variant.names}
        if base and times[variant]:
            row["time"] = over_seeds([time / float(np.median(base)) for time in times[variant]], POSITIVE)
        rows.append(row)
    shared = [Column("method", "Method"), Column("beta", "beta", "g")]
    kept = [one for one in columns(suites) if one.key == "seeds" or one.key.endswith(("/reward", "/kl", "accuracy"))]
    heads = (*shared, *kept, Column("time", "Time of a step, DPO's = 1", ".2f"))
    return Section(title, (Table("rivals", "All methods", heads, rows, (_OF_TIME, LEGEND)),))


def _step_times(collected: Collected, variant: Variant) -> list[float]:
    """Of each run the median over its steps but the first, in seconds."""
    files = [collected.files(run) for run in variant.runs]
    series = [one.series("seconds", "train")[1] for one in files if one is not None]
    return [float(np.median(values[1:])) for values in series if len(values) > 1]


def columns(suites: Sequence[str]) -> list[Column]:
    """Of `measured`, for the suites of the driver frontier."""
    found = [Column("seeds", "Runs", "d")]
    for suite in suites:
        named = f" ({suite})" if len(suites) > 1 else ""
        found += [Column(f"{suite}/reward", f"Reward{named}", ".3f"), Column(f"{suite}/kl", f"KL, nats{named}", ".2f")]
    found += [
        Column("accuracy", "Held-out accuracy", ".2f"), Column("ties", "Tied", ".2f"), Column("pairs", "Pairs"),
        *(Column(mask, f"{title}: at 0", ".2f") for mask, title in MASKS.items()),
        Column("token_kl", "Token KL, nats", ".3f"),
    ]  # fmt: skip
    return found


def measured(collected: Collected, variant: Variant) -> dict[str, Any]:
    """Rewards, KL, accuracy and sparsity of a variant's runs, as intervals."""
    if len(variant.runs) == 1:
        return {"seeds": 1, **_of_run(collected, variant.runs[0])}
    rows = [_of_run(collected, run) for run in variant.runs]
    found: dict[str, Any] = {"seeds": len(variant.runs)}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row[key] for row in rows if row.get(key) is not None]
        if key == "pairs":
            found[key] = " and ".join(dict.fromkeys(f"{value}" for value in values))
        elif values:
            within = SHARE if key in _SHARES else POSITIVE if key.endswith("kl") else ANYWHERE
            found[key] = over_seeds([value.mean for value in values], within)
    return found


def _of_run(collected: Collected, run: TrainedRun) -> dict[str, Any]:
    """Of one run: intervals over prompts or pairs where there are any."""
    found: dict[str, Any] = {}
    for suite in collected.suites("frontier"):
        point = collected.final_points(suite).get(run.name)
        if point is not None:
            for key, mean, by_prompt in (("reward", point.reward, point.rewards), ("kl", point.kl, point.kls)):
                several = len(by_prompt) > 1
                found[f"{suite}/{key}"] = mean_over_prompts(by_prompt) if several else over_seeds([mean])
    row = collected.heldout(run)
    accuracy, pairs = mean_of(row, [_ACCURACY]), row.get(_PAIRS)
    if accuracy is not None:
        known = isinstance(pairs, int) and pairs > 0
        found["accuracy"] = over_pairs(accuracy, int(pairs or 0)) if known else over_seeds([accuracy])
        found["ties"] = _alone(mean_of(row, [_TIES]))
        found["pairs"] = pairs
    found |= {mask: _alone(collected.sparsity(run, mask)) for mask in MASKS}
    found["token_kl"] = _alone(mean_of(row, ["token_kl/chosen", "token_kl/rejected"]))
    return found


def _alone(value: float | None) -> Interval | None:
    return None if value is None else over_seeds([value])


def difference(
    value: Callable[[TrainedRun], float | None], ones: Sequence[Variant], others: Sequence[Variant]
) -> Interval | None:
    """Mean of ones minus others over the betas and seeds that both have, with its t-interval; None for fewer than 2."""
    left, right = (
        {
            (variant.beta, seed(run)): number
            for variant in side
            for run in variant.runs
            if (number := value(run)) is not None
        }
        for side in (ones, others)
    )
    both = [key for key in left if key in right]
    return over_seeds([left[key] - right[key] for key in both]) if len(both) > 1 else None
