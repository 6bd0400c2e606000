"""The paired bootstrap: intervals that cover, and matrices of what the summary driver wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.summary.holm import holm
from sparsepo_dist.evaluation.summary.significance import difference, significance

ROOT = Path(__file__).resolve().parents[3]
FEW = ["--resamples", "500"]


def test_intervals_cover_the_true_difference_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    repetitions, prompts, truth = 300, 120, 0.3
    covered = 0
    for repetition in range(repetitions):
        hardness = generator.exponential(3, prompts)  # shared by both models: only a paired test is not drowned by it
        one = hardness + generator.normal(truth, 1, prompts)
        other = hardness + generator.normal(0, 1, prompts)
        found = difference(one, other, resamples=600, seed=repetition)
        covered += found.low <= truth <= found.high
        assert found.high - found.low < 1
    low, high = binom.ppf([0.001, 0.999], repetitions, 0.95)
    assert low <= covered <= high


def test_a_difference_of_prompts_and_not_of_orders() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(20, 5, 60)
    assert difference(scores + 0.5, scores, resamples=999) == pytest.approx((0.5, 0.5, 0.5, 2 / 1000))
    assert difference(scores, scores).p == 1
    assert difference(scores + 0.5, scores).significant
    assert not difference(scores, scores).significant
    shuffled = difference(scores, generator.permutation(scores))
    assert shuffled.mean == pytest.approx(0) and not shuffled.significant
    assert difference(scores, shuffled_by(scores)) == difference(scores, shuffled_by(scores))


def shuffled_by(scores: np.ndarray) -> np.ndarray:
    return scores + np.sin(np.arange(len(scores)))


def table(folder: Path, models: dict[str, np.ndarray], **settings: str) -> Path:
    folder.mkdir()
    record: dict[str, Any] = {
        "settings": {"prompts": "p", "references": "r", **settings},
        "rows": [
            {"model": name, "temperature": 0.5, "per_prompt": {"rouge_l": list(scores)}}
            for name, scores in models.items()
        ],
    }
    (folder / "summary.json").write_text(json.dumps(record))
    return folder


def test_a_matrix_of_all_models_turned_over_its_diagonal(tmp_path: Path) -> None:
    scores = np.random.default_rng(2).normal(20, 5, 50)
    one = table(tmp_path / "one", {"a": scores, "b": scores + 2})
    two = table(tmp_path / "two", {"c": shuffled_by(scores)})
    text = significance([str(one), str(two / "summary.json"), "--output", str(tmp_path / "out"), *FEW])
    assert "ROUGE-L F1, temperature 0.5" in text
    assert "| a |  | -2.00 [-2.00, -2.00] p 0.004, Holm 0.012 ** |" in text
    assert "| b | +2.00 [+2.00, +2.00] p 0.004, Holm 0.012 ** |  |" in text
    assert "Holm's correction for 3 pairs" in text and "cannot show" not in text
    record = json.loads((tmp_path / "out" / "significance.json").read_text())
    assert [(d["model"], d["minus"], d["significant"]) for d in record["differences"]] == [
        ("a", "b", True), ("a", "c", False), ("b", "c", True),
    ]  # fmt: skip
    assert record["differences"][0]["p"] == pytest.approx(2 / 501)
    assert record["differences"][0]["p_holm"] == pytest.approx(3 * 2 / 501)
    assert (tmp_path / "out" / "significance.md").read_text() == text
    few = significance([str(one), str(two), "--resamples", "50"])
    assert "-2.00 [-2.00, -2.00] p 0.039, Holm 0.12 * |" in few, "significant alone, and not among three"
    assert "50 resamples cannot show that for 3 pairs: give --resamples 119 or more" in few


def test_p_values_are_right_as_often_as_they_say_where_nothing_differs() -> None:
    generator = np.random.default_rng(3)
    repetitions = 400
    found = [difference(*generator.normal(size=(2, 100)), resamples=300, seed=n).p for n in range(repetitions)]
    low, high = binom.ppf([0.001, 0.999], repetitions, 0.1)
    assert low <= sum(p <= 0.1 for p in found) <= high


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [  # by hand, smallest times the number of all, the next times one less, never below the one before
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        (  # statsmodels 0.15.0, multipletests(raw, method="holm")
            [0.0004, 0.021, 0.0105, 0.5, 0.021, 0.032, 0.0031, 0.77],
            [0.0032, 0.105, 0.063, 1.0, 0.105, 0.105, 0.0217, 1.0],
        ),
        ([0.2], [0.2]),
        ([0.6, 0.9], [1.0, 1.0]),
    ],
)
def test_holms_correction(raw: list[float], corrected: list[float]) -> None:
    assert holm(raw) == pytest.approx(corrected, rel=1e-12)


def test_tables_that_cannot_be_compared(tmp_path: Path) -> None:
    scores = np.arange(10.0)
    one = table(tmp_path / "one", {"a": scores})
    with pytest.raises(UserError, match="no two models"):
        significance([str(one)])
    with pytest.raises(UserError, match="the model a stands in two"):
        significance([str(one), str(table(tmp_path / "again", {"a": scores}))])
    with pytest.raises(UserError, match="of other prompts than"):
        significance([str(one), str(table(tmp_path / "others", {"b": scores}, prompts="q"))])
    with pytest.raises(UserError, match="rouge_l of b at 0.5: a finite number for each prompt is wanted"):
        significance([str(one), str(table(tmp_path / "lost", {"b": np.append(scores[:9], np.nan)}))])
    with pytest.raises(UserError, match="rouge_l of b at 0.5: 9 scores, and 10 of the models before it"):
        significance([str(one), str(table(tmp_path / "short", {"b": scores[:9]}))])
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="not a summary.json"):
        significance([str(tmp_path)])
    with pytest.raises(UserError, match="two of them or more"):
        difference([1.0], [2.0])


@pytest.mark.slow
def test_the_script_beside_a_code_py_finds_the_standard_librarys(tmp_path: Path) -> None:
    shutil.copy(ROOT / "evaluation" / "significance.py", tmp_path)
    (tmp_path / "code.py").write_text("raise RuntimeError('this is not the standard library')\n")
    scores = np.arange(10.0)
    command = [str(tmp_path / "significance.py"), str(table(tmp_path / "one", {"a": scores, "b": scores + 1})), *FEW]
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "| a |  | -1.00 [-1.00, -1.00] p 0.004, Holm 0.004 ** |" in found.stdout
