"""vLLM as it would be found, were it installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FAKE = Path(__file__).resolve().parents[1] / "support" / "fake_vllm"
# lm-eval registers its class once a process: what was imported is put aside between tests, not thrown away.
_LOADED: dict[str, ModuleType] = {}


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module; for this test alone."""
    monkeypatch.syspath_prepend(str(FAKE))
    sys.modules.update(_LOADED)
    module = importlib.import_module("vllm")
    module.BUILT.clear()
    yield module
    for name in [*sys.modules]:
        if name.partition(".")[0] == "vllm" or name == "lm_eval.models.vllm_causallms":
            _LOADED[name] = sys.modules.pop(name)
