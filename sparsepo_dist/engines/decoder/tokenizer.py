"""The tokenizer beside a decoder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from sparsepo_dist.engines.decoder.configuration import check_own_code
from sparsepo_dist.errors import UserError, shortened, unreadable


def load_tokenizer(path: str, *, field: str = "model.path", trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    Raises:
        UserError: there is none, it needs code of its own, or its settings cannot be.
    """
    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever the readers of the file formats raise
        check_own_code(error, f"{field} {path}", trust_remote_code=trust_remote_code)
        reason = _missing_reader(path) or unreadable(error, 200)
        raise UserError(f"{field} {path}: no tokenizer could be loaded: {reason}") from None
    longest: Any = tokenizer.model_max_length
    if not isinstance(longest, int | float) or isinstance(longest, bool):
        raise UserError(
            f"{field} {path}: tokenizer_config.json has model_max_length {shortened(repr(longest))}, which is no number"
        )
    return tokenizer


def _missing_reader(path: str) -> str | None:
    """Which package a tokenizer takes that has no tokenizer.json; None where that is not what is wrong."""
    try:
        whole, model = (
            cached_file(path, name, local_files_only=True, _raise_exceptions_for_missing_entries=False)
            for name in ("tokenizer.json", "tokenizer.model")
        )
    except OSError:  # no folder, and no name that a hub could have
        return None
    if whole is not None or model is None:
        return None
    with Path(model).open("rb") as file:
        package = "sentencepiece" if file.read(1) == b"\n" else "tiktoken"  # the latter's file is text
    if importlib.util.find_spec(package) is not None:
        return None
    return (
        f"it has a tokenizer.model and no tokenizer.json, and the package {package}, which reads it, is not installed; "
        f"run `pip install {package}`"
    )
