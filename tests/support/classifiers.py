"""Sequence classifiers with random weights, in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.support.tiny import VOCABULARY, tiny_tokenizer


def save_tiny_classifier(folder: Path, template: str | None = None, **settings: Any) -> Path:
    """A BERT and its tokenizer, which has this chat template; `settings` of its configuration."""
    torch.manual_seed(0)
    common = {"max_position_embeddings": 256, "initializer_range": 1.0}
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        pad_token_id=257, **{**common, **settings},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
