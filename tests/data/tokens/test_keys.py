"""What a tokenizer's fingerprint depends on, and what not."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from sparsepo_dist.data.tokens.keys import tokenizer_fingerprint
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from tests.support.tiny import tiny_tokenizer


def test_a_fingerprint_is_not_of_how_a_tokenizer_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE on one rank alone, as mpirun leaves it, makes no other tokenizer."""
    tiny_tokenizer().save_pretrained(tmp_path)
    found = []
    for offline in (True, False):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        tokenizer = load_tokenizer(str(tmp_path), field="model.path")
        assert tokenizer.init_kwargs["local_files_only"] is offline, "what this is about"
        found.append(tokenizer_fingerprint(tokenizer))
    assert found[0] == found[1]
    tokenizer.add_tokens(["another"])
    assert tokenizer_fingerprint(tokenizer) != found[0]
