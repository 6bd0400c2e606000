"""HumanEval's problems, of the mirror in the project's shared data."""

from __future__ import annotations

from pathlib import Path

import pytest

_DATA = [Path(__file__).resolve().parents[3] / "shared" / "data", Path("/work/shared/data")]
MIRROR = next((path / "hub_mirror" for path in _DATA if path.is_dir()), _DATA[0] / "hub_mirror")
HUMANEVAL = MIRROR / "openai_humaneval" / "test-00000-of-00001.parquet"
needs_humaneval = pytest.mark.skipif(
    not HUMANEVAL.is_file(), reason="the project's shared data is not beside this checkout"
)


def problems() -> list[dict[str, str]]:
    """Rows: prompt, canonical_solution, test, entry_point."""
    from pyarrow import parquet

    return parquet.read_table(HUMANEVAL).to_pylist()
