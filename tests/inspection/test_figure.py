"""The figure of a data set, of sets that leave little to draw."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.inspection.figure import draw_data
from sparsepo_dist.inspection.measures import measure

PLAIN = TokenizedPair((1, 2), (3, 4, 5), (6, 7), None, "row 1")


@pytest.mark.parametrize(
    ("pairs", "limits"),
    [
        ([TokenizedPair((1,), (2,), (), None, "row 1")], Limits(1024, 2048)),
        ([PLAIN] * 300 + [TokenizedPair((1,) * 9000, (2,), (3,) * 500, None, "row 2")], Limits(1, 2)),
    ],
)
def test_few_and_far_apart(tmp_path: Path, pairs: list[TokenizedPair], limits: Limits) -> None:
    height, width, _ = matplotlib.image.imread(draw_data(measure(pairs), limits, tmp_path / "figure.png")).shape
    assert (width, height) == (1380, 1080), "two columns where there are no scores"
