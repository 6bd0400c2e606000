"""Tokenizers that cannot be loaded: what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsepo_dist.engines.decoder import tokenizer
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.errors import UserError
from tests.support.tiny import save_tiny_model

# The beginning of a SentencePiece model, which is a protocol buffer, and of tiktoken's text.
CONTENTS = {"sentencepiece": b"\x0a\x0a\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02", "tiktoken": b"IQ== 0\nIg== 1\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_model(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    return tmp_path


@pytest.mark.parametrize("package", CONTENTS)
def test_the_package_that_reads_a_tokenizer_model_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(tokenizer.importlib.util, "find_spec", lambda name: None)
    (folder / "tokenizer.model").write_bytes(CONTENTS[package])
    with pytest.raises(UserError, match=f"no tokenizer.json, and the package {package}.*pip install {package}"):
        load_tokenizer(str(folder))


def test_no_package_is_named_where_it_is_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer.importlib.util, "find_spec", lambda name: object())
    (folder / "tokenizer.model").write_bytes(b"\x0anothing that could be read")
    with pytest.raises(UserError, match="no tokenizer could be loaded") as refused:
        load_tokenizer(str(folder))
    assert "it has a tokenizer.model and no tokenizer.json" not in str(refused.value)
