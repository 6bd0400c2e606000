"""Cached pairs belong to the weights that sampled them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.builtin import pairs
from sparsepo_dist.builtin.pairs import sentiment_files
from sparsepo_dist.sampling.responses import Sample


def test_other_weights_in_the_same_folder_never_reuse_old_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[int] = []

    def sample(model: Path, prompts: Sequence[str], per_prompt: int, **settings: Any) -> list[Sample]:
        sampled.append(len(prompts))
        return [Sample(p, text, (1,), (2,)) for p in prompts for text in (" wonderful", " awful")]

    monkeypatch.setattr(pairs, "sample", sample)
    monkeypatch.setenv("SPARSEPO_CACHE", str(tmp_path))
    model = tmp_path / "smollm2-135m-instruct"
    model.mkdir()
    (model / "config.json").write_text("{}")
    weights = model / "model.safetensors"
    weights.write_bytes(b"first")
    first = sentiment_files()
    assert sentiment_files() == first and len(sampled) == 2
    weights.write_bytes(b"other")
    second = sentiment_files()
    assert second.train != first.train and second.heldout != first.heldout
    assert len(sampled) == 4
    weights.write_bytes(b"first")
    assert sentiment_files() == first and len(sampled) == 4
