"""Tokenizers."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer


def get_tokenizer(tokenizer_name: str, tokenizer_mode: str = "auto", **options: Any) -> Any:
    """A tokenizer by its folder."""
    assert tokenizer_mode == "auto"
    return AutoTokenizer.from_pretrained(tokenizer_name, **options)
