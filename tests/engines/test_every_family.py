"""Every causal language model that the installed transformers knows: right in a layout, or refused before training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.families import NOT_BUILT
from tests.support.sweep import kinds, row, verdict

TABLE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
KINDS = kinds()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_family_is_right_or_refused_as_the_page_says(kind: str) -> None:
    found = verdict(KINDS[kind])
    assert not any(of.startswith("WRONG") for of in found.layouts.values()), found.layouts
    assert row(kind, found) in TABLE


def test_the_page_lists_every_family_once() -> None:
    listed = [line.split(" | ")[0].removeprefix("| ") for line in TABLE if line.startswith("| ")]
    named = [name for name in listed if name not in ("model_type", "configuration", "---")]
    assert sorted(named) == sorted([*KINDS, *NOT_BUILT])
