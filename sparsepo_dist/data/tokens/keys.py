"""Numbers that stand for token ids, and for what makes token ids of texts."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import Spans, TokenizedPair


def pair_key(pair: TokenizedPair) -> int:
    """A 64-bit number made of a pair's token ids, and of which are trained on: the same wherever the pair stands."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(_told((pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)))
    digest.update(spans_told(pair.chosen_trained, pair.rejected_trained))
    return int.from_bytes(digest.digest(), "little", signed=True)


def ids_key(*texts: Sequence[int]) -> int:
    """A signed 64-bit number made of the token ids of some texts, in their order."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(_told(texts))
    return int.from_bytes(digest.digest(), "little", signed=True)


def spans_told(chosen: Spans, rejected: Spans) -> bytes:
    """What digests of a pair take in besides its ids; nothing where there are no spans, so that those stay as they
    were."""
    return repr((chosen, rejected)).encode() if chosen or rejected else b""


def _told(texts: Sequence[Sequence[int]]) -> bytes:
    return b"".join(len(ids).to_bytes(8, "little") + array("q", ids).tobytes() for ids in texts)


_OF_LOADING = ("is_local", "local_files_only")
"""Settings that say how a tokenizer was found: HF_HUB_OFFLINE on one rank alone changes the latter."""


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's vocabulary, rules, settings, special tokens and chat template, wherever it lies."""
    settings = {
        name: value
        for name, value in tokenizer.init_kwargs.items()
        if name not in _OF_LOADING and (value is None or isinstance(value, bool | int | float))
    }
    told = [
        type(tokenizer).__name__, _rules(tokenizer), settings, tokenizer.special_tokens_map, tokenizer.chat_template,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _rules(tokenizer: PreTrainedTokenizerBase) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        file = getattr(tokenizer, "vocab_file", None)
        content = Path(file).read_bytes() if file is not None and Path(file).is_file() else b""
        return [hashlib.sha256(content).hexdigest(), tokenizer.get_vocab()]
    backend.no_truncation()  # set anew by each call: what the last one has left is no rule
    backend.no_padding()
    return backend.to_str()
