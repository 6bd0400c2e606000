"""EDNA: are summaries faithful to their document and yet different from each other? By SummaC's entailment model.

After Narayan et al. 2022 (arXiv 2203.15108), with SummaC-Conv as the judge: the harmonic mean of a document's mean
entailment of its samples and one minus the samples' mean entailment of each other. The package is not among those this
project is tested with; only the arithmetic is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sparsepo_dist.errors import shortened
from sparsepo_dist.evaluation.summary.metrics import Metric, Samples, Task

NOT_INSTALLED = "the package summac is not installed (`pip install summac`; its models come from the hub)"


def edna() -> Metric | str:
    """EDNA of a prompt's samples, the prompt being the document; or why it cannot be measured here."""
    if importlib.util.find_spec("summac") is None:
        return NOT_INSTALLED
    from summac.model_summac import SummaCConv

    try:
        judge = SummaCConv(
            models=["vitc"], bins="percentile", granularity="sentence", nli_labels="e", start_file="default",
            agg="mean", device="cuda" if torch.cuda.is_available() else "cpu",
        )  # fmt: skip
    except OSError as error:
        return f"SummaC's models could not be loaded: {shortened(str(error), 200)}"

    def compute(tasks: Sequence[Task], samples: Samples) -> list[float]:
        return [
            100 * _edna(judge, task.prompt, texts)
            for task, texts in zip(tqdm(tasks, desc="EDNA", unit="prompt"), samples, strict=True)
        ]

    return Metric("edna", "edna-summac-conv-vitc", compute, ("summac",))


def _edna(judge: Any, document: str, texts: Sequence[str]) -> float:
    faithful = _entailment(judge, [(document, text) for text in texts])
    alike = _entailment(
        judge, [(one, other) for i, one in enumerate(texts) for j, other in enumerate(texts) if i != j]
    )  # fmt: skip
    different = 1 - alike
    return 2 * faithful * different / (faithful + different) if faithful + different > 0 else 0.0


def _entailment(judge: Any, pairs: Sequence[tuple[str, str]]) -> float:
    """Mean over pairs of how far the first text entails the second; blank texts entail nothing and follow from none."""
    told = [pair for pair in pairs if all(text.strip() for text in pair)]
    if not told:
        return 0.0
    scores = judge.score([one for one, _ in told], [other for _, other in told])["scores"]
    return float(np.sum(scores)) / len(pairs)
