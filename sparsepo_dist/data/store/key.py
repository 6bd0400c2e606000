"""What token ids depend on: where any of it has changed, they are made anew."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.identity import source_identity
from sparsepo_dist.data.tokens.keys import tokenizer_fingerprint

FORMAT = 1
"""Of the files in a folder."""
# What changes where pairs come from, how many are used, or how they are computed, and not what a source's pairs are.
_APART = (
    "train", "heldout", "heldout_pairs", "chat_template", "date", "layout", "tokens_per_micro_batch", "cache",
    "workers", "show", "mixture_seed",
)  # fmt: skip
_PACKAGES = ("transformers", "tokenizers", "jinja2")
_FLOORS = ("reading", "rows", "tokens", "store")
_CODE = Path(__file__).resolve().parents[1]


def store_key(
    source: str, tokenizer: PreTrainedTokenizerBase, config: DataConfig, *, scored: bool, needs_rejected: bool
) -> dict[str, Any]:  # fmt: skip
    """Everything that a source's token ids depend on, as JSON has it.

    Args:
        tokenizer: with the chat template that the run uses.

    Raises:
        UserError: the source is not there.
    """
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in _APART}
    if "strftime_now" in json.dumps(tokenizer.chat_template):  # how templates ask for the date
        options["date"] = config.date
    key = {
        "format": FORMAT,
        "source": source_identity(source),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "options": options,
        "scored": scored,
        "needs_rejected": needs_rejected,
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "code": _code(),
    }
    told: dict[str, Any] = json.loads(json.dumps(key))
    return told


def key_name(key: dict[str, Any]) -> str:
    """The name of the folder that has what was made for a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _code() -> str:
    """SHA-256 of the code that reads, checks and tokenises: a checkout has one version for many states."""
    digest = hashlib.sha256()
    for file in sorted(file for floor in _FLOORS for file in (_CODE / floor).glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
