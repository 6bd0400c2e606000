"""Reading without a network, and with a cache of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import datasets
import pytest


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`datasets` keeps what it prepares where the test ends; whoever asks for another machine fails the test."""
    asked: list[Any] = []

    def lookup(host: Any, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise OSError("there is no network in tests")

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
    assert not asked
