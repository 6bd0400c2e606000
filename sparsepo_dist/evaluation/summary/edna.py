"""EDNA: are summaries faithful to their document and yet different from each other? By a model of entailment.

Of the paper's text: EDNA is measured, with SummaC's entailment. After Narayan et al. 2022 (arXiv 2203.15108), which
could not be read here to check it: the harmonic mean of a document's mean entailment of its samples, and one minus the
samples' mean entailment of each other. SummaC (Laban et al. 2022) has two variants: the zero-shot one (ZS), which is
computed here with any entailment model of transformers, and the trained one (Conv), whose weights only its package
has. Sentences are cut after . ! ? and at line ends; SummaC cuts them by nltk's punkt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sparsepo_dist.evaluation.encoders import label_index, load_classifier, longest_input
from sparsepo_dist.evaluation.summary.metrics import Metric, Samples, Task
from sparsepo_dist.evaluation.target import Target

_BATCH = 64
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")
_Pair = tuple[str, str]


def edna(path: str, label: str) -> Metric:
    """EDNA of a prompt's samples, the prompt being the document; 0 to 100.

    Args:
        path: folder or hub id of a model that classifies (premise, hypothesis), as its tokenizer's pair.
        label: its label of entailment, in any case.

    Raises:
        UserError: it cannot be loaded, or has no such label.
    """
    judge = _Judge(path, label)
    identity = Target(Path(path).name, str(path)).sha256
    measurement = "-".join(["edna-zs", Path(path).name, str(judge.label), *([identity[:8]] if identity else [])])

    def compute(tasks: Sequence[Task], samples: Samples) -> list[float]:
        return [
            100 * _edna(judge, task.prompt, texts)
            for task, texts in zip(tqdm(tasks, desc="EDNA", unit="prompt"), samples, strict=True)
        ]

    return Metric("edna", measurement, compute, ())


class _Judge:
    """p(entailment) of pairs of sentences."""

    def __init__(self, path: str, label: str) -> None:
        self._model, self._tokenizer = load_classifier(path, field="--edna_model")
        self.label = label_index(self._model, label, field="--edna_label", path=path)
        self._limit = longest_input(self._tokenizer, self._model.config)

    @torch.inference_mode()
    def __call__(self, pairs: Iterable[_Pair]) -> dict[_Pair, float]:
        each = sorted(set(pairs), key=lambda pair: len(pair[0]) + len(pair[1]))
        found: dict[_Pair, float] = {}
        at_once = _BATCH if self._tokenizer.pad_token is not None else 1
        for start in range(0, len(each), at_once):
            chunk = each[start : start + at_once]
            inputs = self._tokenizer(
                [premise for premise, _ in chunk], [hypothesis for _, hypothesis in chunk], return_tensors="pt",
                padding=at_once > 1, truncation="longest_first", max_length=self._limit,
            ).to(self._model.device)  # fmt: skip
            probabilities = self._model(**inputs).logits.softmax(-1)[:, self.label]
            found.update(zip(chunk, probabilities.tolist(), strict=True))
        return found


def _edna(judge: _Judge, document: str, texts: Sequence[str]) -> float:
    pairs = [(document, text) for text in texts]
    others = [(one, other) for i, one in enumerate(texts) for j, other in enumerate(texts) if i != j]
    known = judge(
        (premise, hypothesis)
        for one, other in pairs + others
        for premise in _sentences(one)
        for hypothesis in _sentences(other)
    )
    faithful = float(np.mean([_entailed(*pair, known) for pair in pairs]))
    different = 1 - float(np.mean([_entailed(*pair, known) for pair in others]))
    return 2 * faithful * different / (faithful + different) if faithful + different > 0 else 0.0


def _entailed(one: str, other: str, known: dict[_Pair, float]) -> float:
    """SummaC-ZS: each sentence by the one that entails it best, mean over sentences; blank texts entail nothing."""
    premises, hypotheses = _sentences(one), _sentences(other)
    if not premises or not hypotheses:
        return 0.0
    return float(np.mean([max(known[premise, each] for premise in premises) for each in hypotheses]))


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE_ENDS.split(text) if sentence.strip()]
