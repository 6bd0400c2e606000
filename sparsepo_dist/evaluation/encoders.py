"""What is known of an encoder and its tokenizer besides their weights."""

from __future__ import annotations

from typing import Any

_UNLIMITED = 10**9  # a tokenizer that names no length has 10**30
_RESERVED = 2  # RoBERTa's positions begin at 2


def longest_input(tokenizer: Any, config: Any) -> int:
    """Tokens that an encoder reads at most: what its tokenizer says, else what its positions surely hold."""
    if tokenizer.model_max_length < _UNLIMITED:
        return int(tokenizer.model_max_length)
    return (getattr(config, "max_position_embeddings", None) or 512) - _RESERVED
