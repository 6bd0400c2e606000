"""The nodes and the Slurm, once for all tests here; skipped, with the reason, where there can be none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import Nodes, missing
from tests.cluster.slurm import Slurm


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with Nodes(tmp_path_factory.mktemp("nodes")) as found:
        yield found


@pytest.fixture(scope="session")
def slurm(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(nodes, tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of both shapes, and pairs."""
    from tests.support.tiny import save_tiny_model, write_pairs

    folder = tmp_path_factory.mktemp("data")
    for family in ("gpt_neox", "gptj"):
        save_tiny_model(folder / family, family)
    write_pairs(folder / "pairs.jsonl", 12)
    return folder
