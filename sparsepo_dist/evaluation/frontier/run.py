"""Measure reward and KL of each model, draw and write them; what is finished is not done again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsepo_dist.evaluation.divergence import ReferenceKL
from sparsepo_dist.evaluation.frontier.pareto import Point
from sparsepo_dist.evaluation.frontier.runs import REFERENCE, Trained
from sparsepo_dist.evaluation.frontier.scorers import Scorer
from sparsepo_dist.evaluation.frontier.tables import measured_origin, write_frontier_tables
from sparsepo_dist.evaluation.models import results_folder
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.sampling import Sampling
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.sampling.responses import Sample

_PACKAGES = ("vaderSentiment", "peft")


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
        self._kl_task = f"kl-{reference.fingerprint}"
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
            "method": one.method, "model": target.name, "step": one.step, "path": target.adapter or target.model,
            **_mean("kl", kl, per_prompt), **_mean("reward", rewards, per_prompt), "settings": one.settings,
        }  # fmt: skip

    def _kept(self, target: Target) -> Results:
        if target not in self._results:  # it reads all weights, for their hash
            folder, backend = self._output / "models" / results_folder(target), self._drawing.sampling.backend
            self._results[target] = Results(folder, target, self._drawing.settings(), packages=(*_PACKAGES, backend))
        return self._results[target]

    def samples(self, target: Target) -> list[Sample]:
        """What a model says, drawn unless it was before. Raises UserError as `row`."""
        prompts, temperature, sampling = self._drawing
        return sampling.kept(self._kept(target), target, prompts, temperature)


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
    reference_results: Path | None = None,
) -> Path:
    """frontier.json, .csv, .md and .png in `output`; the Markdown file.

    Args:
        worst: (KL, reward) that hypervolumes are measured from, or as `write_frontier_tables` says.
        reference_results: `output` of another call that measured the reference, which is then not sampled here.

    Raises:
        UserError: a model cannot be loaded, the reference was measured otherwise, or `output` holds results of other
            settings.
        RunError: vLLM fails.
    """
    measurement = Measurement(reference, scorer, drawing, output)
    settings, origin = drawing.settings(), None
    if reference_results is not None:
        origin = measured_origin(reference_results, reference, scorer.description, settings)
    for target in (*([] if origin else [reference]), *(one.target for one in models)):
        measurement.samples(target)  # before anything stays on the GPU, of which vLLM takes nearly all for a model
    origin = origin or {**measurement.row(Trained(REFERENCE, reference)), "sha256": reference.sha256}
    rows = [measurement.row(one) for one in models]
    return write_frontier_tables(rows, origin, scorer.description, settings, output, worst)
