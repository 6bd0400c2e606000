"""Measure reward and KL of each model, draw and write them; what is finished is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsepo_dist.evaluation.divergence import ReferenceKL
from sparsepo_dist.evaluation.frontier.figure import draw_frontier
from sparsepo_dist.evaluation.frontier.pareto import Point, hypervolume, pareto
from sparsepo_dist.evaluation.frontier.runs import REFERENCE, Trained
from sparsepo_dist.evaluation.frontier.scorers import Scorer
from sparsepo_dist.evaluation.models import results_folder
from sparsepo_dist.evaluation.results import Results, write_whole
from sparsepo_dist.evaluation.sampling import Sampling
from sparsepo_dist.evaluation.tables import Column, csv_table, markdown_table
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.sampling.backends import load_sampler
from sparsepo_dist.sampling.responses import Sample

MARGIN = 1.1
"""The hypervolume's reference point lies so many times as far as the farthest model, so that that one counts too."""
_PACKAGES = ("vaderSentiment", "peft")
_COLUMNS = (
    Column("method", "Method"), Column("model", "Model"), Column("kl", "KL (nats)", ".3f"),
    Column("kl_stderr", "± KL", ".3f"), Column("reward", "Reward", ".4f"), Column("reward_stderr", "± reward", ".4f"),
    Column("on_frontier", "On the frontier"),
)  # fmt: skip


class Drawing(NamedTuple):
    """What is sampled from each model."""

    prompts: tuple[str, ...]
    temperature: float
    sampling: Sampling

    def settings(self) -> dict[str, Any]:
        """What decides the samples besides model and machine."""
        return {**self.sampling.settings(self.prompts), "temperature": self.temperature}


class Measurement:
    """Rewards and KL of models against one reference, kept in a folder."""

    def __init__(self, reference: Target, scorer: Scorer, drawing: Drawing, output: Path) -> None:
        self._reference, self._scorer, self._drawing, self._output = reference, scorer, drawing, output
        identity = reference.sha256 or reference.model
        self._kl_task = f"kl-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        self._measure: ReferenceKL | None = None
        self._results: dict[Target, Results] = {}

    def row(self, one: Trained) -> dict[str, Any]:
        """A model's row of the table, KL in nats; the reference's own is 0.

        Raises:
            UserError: the model cannot be loaded, or the folder holds results of other settings.
        """
        target = one.target
        kept = self._kept(target)
        samples = self.samples(target)
        rewards = kept.finished(f"reward-{self._scorer.measurement}")
        if rewards is None:
            rewards = self._scorer.score(samples)
            kept.write(f"reward-{self._scorer.measurement}", rewards)
        kl = [0.0] * len(samples) if target[1:] == self._reference[1:] else kept.finished(self._kl_task)
        if kl is None:
            self._measure = self._measure or ReferenceKL(self._reference.model, self._reference.adapter)
            kl = self._measure.per_response(target.model, samples, adapter=target.adapter)
            kept.write(self._kl_task, kl)
        per_prompt = self._drawing.sampling.samples
        return {
            "method": one.method, "model": target.name, "path": target.adapter or target.model,
            **_mean("kl", kl, per_prompt), **_mean("reward", rewards, per_prompt),
        }  # fmt: skip

    def _kept(self, target: Target) -> Results:
        if target not in self._results:  # it reads all weights, for their hash
            folder, backend = self._output / "models" / results_folder(target), self._drawing.sampling.backend
            self._results[target] = Results(folder, target, self._drawing.settings(), packages=(*_PACKAGES, backend))
        return self._results[target]

    def samples(self, target: Target) -> list[Sample]:
        """What a model says, drawn unless it was before. Raises UserError as `row`."""
        kept = self._kept(target)
        found = kept.finished("samples")
        if found is None:
            prompts, temperature, sampling = self._drawing
            sampler = load_sampler(sampling.backend, target.model, target.adapter)
            found = sampling.draw(sampler, prompts, temperature, f"sampling {target.name}")
            kept.write("samples", [sample._asdict() for sample in found])
            return found
        return [
            Sample(s["prompt"], s["response"], tuple(s["prompt_ids"]), tuple(s["response_ids"])) for s in found
        ]  # fmt: skip


def _mean(name: str, values: Sequence[float], samples: int) -> dict[str, float]:
    """Mean and its standard error; samples of one prompt resemble each other, so prompts are what is counted."""
    prompts = np.reshape(values, (-1, samples)).mean(1)
    error = float(prompts.std(ddof=1) / np.sqrt(len(prompts))) if len(prompts) > 1 else 0.0
    return {name: float(prompts.mean()), f"{name}_stderr": error}


def write_frontier(
    models: Sequence[Trained],
    reference: Target,
    scorer: Scorer,
    drawing: Drawing,
    output: Path,
    worst: Point | None = None,
) -> Path:
    """frontier.json, .csv, .md and .png in `output`; the Markdown file.

    Args:
        worst: (KL, reward) that hypervolumes are measured from. By default MARGIN times the largest KL, and the
            reference's own reward: a model that is worth less than where it began covers nothing.

    Raises:
        UserError: a model cannot be loaded, or `output` holds results of other settings.
        RunError: vLLM fails.
    """
    measurement = Measurement(reference, scorer, drawing, output)
    for target in (reference, *(one.target for one in models)):
        measurement.samples(target)  # before anything stays on the GPU, of which vLLM takes nearly all for a model
    origin = measurement.row(Trained(REFERENCE, reference))
    rows = [measurement.row(one) for one in models]
    points = [(row["kl"], row["reward"]) for row in rows]
    front = pareto(points)
    for place, row in enumerate(rows):
        row["on_frontier"] = place in front
    worst = worst or (MARGIN * max(kl for kl, _ in points), origin["reward"])
    volumes = {
        method: hypervolume([p for p, row in zip(points, rows, strict=True) if row["method"] == method], worst)
        for method in dict.fromkeys(row["method"] for row in rows)
    }
    record = {
        "scorer": scorer.description,
        "settings": drawing.settings(),
        "reference": origin,
        "rows": rows,
        "hypervolume": {
            "reference_point": {"kl": worst[0], "reward": worst[1]},
            "by_method": volumes,
            "of_all": hypervolume(points, worst),
        },
    }
    write_whole(output / "frontier.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_whole(output / "frontier.csv", csv_table(_COLUMNS, [origin, *rows]))
    write_whole(output / "frontier.md", _markdown(record))
    draw_frontier(rows, origin, scorer.description, output / "frontier.png")
    return output / "frontier.md"


def _markdown(record: dict[str, Any]) -> str:
    volume, settings = record["hypervolume"], record["settings"]
    at = volume["reference_point"]
    named = [{"method": name, "volume": value} for name, value in volume["by_method"].items()]
    named.append({"method": "all together", "volume": volume["of_all"]})
    return (
        markdown_table(_COLUMNS, [record["reference"], *record["rows"]])
        + f"\nReward: {record['scorer']}. {settings['prompt_count']} prompts x {settings['samples']} samples, "
        f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}; ± standard error over prompts.\n\n"
        + markdown_table([Column("method", "Method"), Column("volume", "Hypervolume", ".4f")], named)
        + f"\nHypervolume, in nats x reward, measured from a KL of {at['kl']:.3f} nats and the reward "
        f"{at['reward']:.4f}. Only hypervolumes from one such point can be compared.\n"
    )
