"""The tokenizer beside a decoder."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

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
        raise UserError(f"{field} {path}: no tokenizer could be loaded: {unreadable(error, 200)}") from None
    longest: Any = tokenizer.model_max_length
    if not isinstance(longest, int | float) or isinstance(longest, bool):
        raise UserError(
            f"{field} {path}: tokenizer_config.json has model_max_length {shortened(repr(longest))}, which is no number"
        )
    return tokenizer
