"""Encoders and sequence classifiers of transformers as measuring instruments: loaded whole, and what they can read."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from sparsepo_dist.engines.decoder.loading import check_complete
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.errors import UserError, shortened

_UNLIMITED = 10**9  # a tokenizer that names no length has 10**30
_RESERVED = 2  # RoBERTa's positions begin at 2


def longest_input(tokenizer: Any, config: Any) -> int:
    """Tokens that an encoder reads at most: what its tokenizer says, else what its positions surely hold."""
    if tokenizer.model_max_length < _UNLIMITED:
        return int(tokenizer.model_max_length)
    return (getattr(config, "max_position_embeddings", None) or 512) - _RESERVED


def load_classifier(path: str, *, field: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier in float32 and its tokenizer, on the GPU if there is one.

    Raises:
        UserError: it cannot be loaded, or its weights lack some.
    """
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{field} {path}: no classifier could be loaded: {shortened(str(error), 200)}") from None
    check_complete(path, found)  # a language model's folder lacks the head, which would be drawn at random
    tokenizer = load_tokenizer(path, field=field)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id  # decoders look for the last token before it
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def label_index(model: PreTrainedModel, wanted: str, *, field: str, path: str) -> int:
    """The place of a label's logit, found by its name in any case.

    Raises:
        UserError: there is no such label; names those that are.
    """
    labels = {int(index): str(label) for index, label in model.config.id2label.items()}
    found = next((index for index, label in labels.items() if label.lower() == wanted.lower()), None)
    if found is None:
        raise UserError(f"{field} {wanted}: {path} has the labels {', '.join(labels.values())}; name one of them")
    return found
