"""What several files of tests train on."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tiny import save_tiny_model, write_pairs


@pytest.fixture(scope="session")
def model_and_pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Fields of a tiny model and of twelve pairs; no test may write to either."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "model.path": save_tiny_model(folder / "llama"), "data.train": write_pairs(folder / "train.jsonl", 12),
        "data.max_length": 100,
    }  # fmt: skip
