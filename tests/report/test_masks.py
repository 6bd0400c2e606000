"""What a report shows of masks over the steps, and how sure it is of an accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsepo_dist.contracts import TokenMasks
from sparsepo_dist.errors import UserError
from sparsepo_dist.report.histogram import LABELS, MOST_COLUMNS, Columns
from sparsepo_dist.report.interval import accuracy_in_words, wilson
from sparsepo_dist.report.pages.build import build_report
from sparsepo_dist.report.reading import read_run
from sparsepo_dist.training.mask_weights import MaskWeights
from tests.training.test_mask_weights import micro_batch


def with_histograms(run: Path, steps: int, counts: list[int] | None = None) -> None:
    given = counts if counts is not None else [0, 3, 0, *range(17)]
    lines = [
        {"step": step, "split": "train", "loss": 0.5, "histogram/reward_mask": given} for step in range(1, steps + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_histograms_are_drawn_from_the_runs_files(run: Path) -> None:
    with_histograms(run, 5)
    assert run / "report" / "mask_histograms.png" in build_report(run)
    columns = read_run(run).histograms["reward_mask"]
    assert columns.steps == [1, 2, 3, 4, 5] and all(column.sum() == 3 + 136 for column in columns.counts)


def test_a_run_of_one_step_whose_masks_are_all_0_can_be_drawn(run: Path) -> None:
    with_histograms(run, 1, [0, 9, *[0] * 18])
    assert run / "report" / "mask_histograms.png" in build_report(run)


@pytest.mark.parametrize("counts", [[1, 2], [0.5] * 20, [-1] * 20, "20"])
def test_damaged_histograms_are_named(run: Path, counts: object) -> None:
    with_histograms(run, 1, counts)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: damaged"):
        build_report(run)


def test_long_runs_are_added_up_in_bounded_memory() -> None:
    columns, lines = Columns(), 5 * MOST_COLUMNS + 3
    for step in range(lines):
        columns.add(step, [step, *[1] * (len(LABELS) - 1)])
    assert MOST_COLUMNS / 2 <= len(columns.counts) <= MOST_COLUMNS
    total = np.sum(columns.counts, 0)
    assert total[0] == sum(range(lines)) and (total[1:] == lines).all()
    assert columns.steps == list(range(0, lines, columns.steps[1]))


def test_labels_are_those_of_the_bins_that_training_counts() -> None:

    values = torch.tensor([2.0**-11, 2.0**-10, 1.0, 2.0**6, 0.0, -1.0, 2.0, 4.0, 8.0])
    weights = MaskWeights()
    weights.add(TokenMasks(values, values), micro_batch(0))
    counts = weights.reduce().histograms["histogram/reward_mask"]
    filled = [label for label, count in zip(LABELS, counts, strict=True) if count]
    assert filled == ["negative", "0", "< 2^-10", "2^-10", "2^0", "2^1", "2^2", "2^3", "2^6"]


def test_wilsons_interval() -> None:
    """Of 3 in 8, by the formula in Wilson (1927); of none and of all it is not a point."""
    assert wilson(3, 8) == pytest.approx((0.1368, 0.6943), abs=2e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=2e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=2e-4)


def test_accuracies_say_what_they_are_of_and_ties_are_ties() -> None:
    row = {"rewards/accuracies": 0.375, "rewards/ties": 0.25, "pairs": 8}
    assert accuracy_in_words(row) == "3 of 8 pairs (38%, 95 % interval 14% to 69%), 2 tied"
    assert accuracy_in_words({"rewards/accuracies": 0.5, "rewards/ties": 0.0, "pairs": 4}) == (
        "2 of 4 pairs (50%, 95 % interval 15% to 85%)"
    )
    assert accuracy_in_words({"rewards/accuracies": 0.375}) == "0.375"
    rounded = {"rewards/accuracies": 0.0, "rewards/ties": 1.0000000447034836, "pairs": 4}
    assert (accuracy_in_words(rounded) or "").endswith(", 4 tied"), "weights of pairs add up to 1 but for rounding"
    rounded = {"rewards/accuracies": 1.0000000447034836, "pairs": 10}
    assert accuracy_in_words(rounded) == "10 of 10 pairs (100%, 95 % interval 72% to 100%)"
    assert accuracy_in_words({"loss": 1.0}) is accuracy_in_words({"rewards/accuracies": float("nan")}) is None


def test_page_and_model_card_show_it(run: Path) -> None:
    line = {"step": 4, "split": "eval", "loss": 0.5, "rewards/accuracies": 0.375, "rewards/ties": 0.25, "pairs": 8}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    build_report(run)
    for path in (run / "report" / "index.html", run / "final" / "README.md"):
        assert "3 of 8 pairs (38%, 95 % interval 14% to 69%), 2 tied" in path.read_text()
