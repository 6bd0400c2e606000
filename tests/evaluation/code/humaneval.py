"""HumanEval's problems, of the mirror in the project's shared data."""

from __future__ import annotations

from pathlib import Path

import pytest

MIRROR = Path(__file__).resolve().parents[4] / "shared" / "data" / "hub_mirror"
HUMANEVAL = MIRROR / "openai_humaneval" / "test-00000-of-00001.parquet"
needs_humaneval = pytest.mark.skipif(
    not HUMANEVAL.is_file(), reason="the project's shared data is not beside this checkout"
)


def problems() -> list[dict[str, str]]:
    """Rows: prompt, canonical_solution, test, entry_point."""
    from pyarrow import parquet

    return parquet.read_table(HUMANEVAL).to_pylist()
