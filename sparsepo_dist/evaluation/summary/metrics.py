"""What a model's summaries are measured by: one number per prompt, of scores 0 to 100."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from sparsepo_dist.errors import UserError

COLUMNS = {
    "rouge_1": "ROUGE-1 F1", "rouge_2": "ROUGE-2 F1", "rouge_l": "ROUGE-L F1", "bertscore": "BERTScore F1",
    "self_bleu": "self-BLEU", "edna": "EDNA", "words": "Words", "tokens": "Tokens",
}  # fmt: skip
"""Metrics of the table and their headings."""
LENGTHS = ("words", "tokens")
"""Those that are no scores."""
_ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


class Task(NamedTuple):
    """A prompt and what a person wrote for it."""

    prompt: str
    summary: str


Samples = Sequence[Sequence[str]]
"""[prompts][samples] summaries."""


class Metric(NamedTuple):
    """One column of the table."""

    name: str
    """One of COLUMNS."""
    measurement: str
    """Name and all settings that decide its numbers, fit for a file name."""
    compute: Callable[[Sequence[Task], Samples], list[float]]
    """A score per prompt."""
    packages: tuple[str, ...]
    """Distributions that compute it."""


def rouge(name: str) -> Metric:
    """ROUGE's F1 on Porter stems against the reference, mean over a prompt's samples.

    Args:
        name: `rouge_1` and `rouge_2` of words and of pairs of words, `rouge_l` of the longest common subsequence of
            the whole texts.

    Raises:
        UserError: rouge_score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise _not_installed("ROUGE", "rouge-score") from None
    kind = _ROUGE[name]
    scorer = RougeScorer([kind], use_stemmer=True)

    def compute(tasks: Sequence[Task], samples: Samples) -> list[float]:
        return [
            100 * float(np.mean([scorer.score(task.summary, text)[kind].fmeasure for text in texts]))
            for task, texts in zip(tqdm(tasks, desc=COLUMNS[name], unit="prompt"), samples, strict=True)
        ]

    return Metric(name, name, compute, ("rouge-score", "nltk"))


def self_bleu() -> Metric:
    """Self-BLEU: mean over a prompt's samples of BLEU with the prompt's other samples as references; low is diverse.

    Raises:
        UserError: sacrebleu is not installed.
    """
    try:
        from sacrebleu import sentence_bleu
    except ImportError:
        raise _not_installed("self-BLEU", "sacrebleu") from None

    def of_prompt(texts: Sequence[str]) -> float:
        others = [[*texts[:place], *texts[place + 1 :]] for place in range(len(texts))]
        return float(np.mean([sentence_bleu(text, rest).score for text, rest in zip(texts, others, strict=True)]))

    def compute(_: Sequence[Task], samples: Samples) -> list[float]:
        return [of_prompt(texts) for texts in tqdm(samples, desc="self-BLEU", unit="prompt")]

    return Metric("self_bleu", "self_bleu", compute, ("sacrebleu",))


def _not_installed(metric: str, package: str) -> UserError:
    return UserError(f"{metric} needs {package}: pip install 'sparsepo_dist[eval]'")
