"""How long a model's summaries are: a longer one has more to be right by, and more to be wrong by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.evaluation.summary.metrics import Metric, Samples, Task
from sparsepo_dist.evaluation.target import Target


def words() -> Metric:
    """Words, which are what white space parts, mean over a prompt's samples."""

    def compute(_: Sequence[Task], samples: Samples) -> list[float]:
        return [float(np.mean([len(text.split()) for text in texts])) for texts in samples]

    return Metric("words", "words", compute, ())


def tokens(target: Target) -> Metric:
    """Tokens that the model's own tokenizer makes of the text, mean over a prompt's samples.

    Its tokenizer is loaded when they are wanted.

    Raises (when it computes):
        UserError: the tokenizer cannot be loaded.
    """

    def compute(_: Sequence[Task], samples: Samples) -> list[float]:
        tokenizer = load_tokenizer(tokenizer_source(target.model, target.adapter), field="--model")
        encoded = ([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] for texts in samples)
        return [float(np.mean([len(ids) for ids in each])) for each in encoded]

    return Metric("tokens", "tokens", compute, ("tokenizers",))
