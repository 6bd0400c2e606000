"""Tables 1 and 2 and Figure 5, from tables as their drivers write them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from sparsepo_dist.evaluation.code.table import write_table
from sparsepo_dist.evaluation.leaderboard.normalisation import COLUMNS
from sparsepo_dist.evaluation.leaderboard.tables import Row, write_tables
from sparsepo_dist.experiments.contracts import Experiment, TrainedRun
from sparsepo_dist.experiments.drawing import build
from tests.support.experiment_runs import trained


def runs_with(root: Path, driver: str, betas: tuple[float, ...] = (0.1,)) -> list[TrainedRun]:
    """Two seeds of DPO at each beta, each with an empty results folder of the driver."""
    found = []
    for at in betas:
        for seed in (1, 2):
            run = trained(root, "dpo", at, seed, reward=0.1, kl=1.0, objective="dpo")
            folder = root / driver / run.name
            folder.mkdir(parents=True)
            found.append(replace(run, results={driver: folder}, drivers={driver: driver}))
    return found


def table(root: Path, draw: str, name: str, *runs: TrainedRun, **more: Any) -> list[dict[str, Any]]:
    experiment = Experiment("test", runs, {}, more.get("selected", {}), (draw,))
    folder = build(experiment, root / "page").parent
    found: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())["rows"]
    return found


def write_leaderboard(folder: Path, score: float | None) -> None:
    scores = {column.name: score for column in COLUMNS}
    settings = {"limit": 4, "chat_template": False}
    write_tables(folder, Row("m", "measured, limit 4", scores, score), {}, settings, {})


def test_table_1_has_ours_then_the_papers_marked(tmp_path: Path) -> None:
    runs = runs_with(tmp_path, "leaderboard")
    for run, score in zip(runs, (4.0, 6.0), strict=True):
        write_leaderboard(run.results["leaderboard"], score)
    rows = table(tmp_path, "table1", "table1-leaderboard", *runs)
    assert rows[0]["model"] == "DPO, beta 0.1" and rows[0]["source"] == "measured, limit 4"
    assert rows[0]["BBH"]["mean"] == rows[0]["average"]["mean"] == 5.0 and rows[0]["average"]["n"] == 2
    assert rows[0]["average"]["high"] == pytest.approx(5 + 12.7062, rel=1e-4)
    assert {row["source"] for row in rows[1:]} == {"reported"} and len(rows) == 1 + 9
    assert rows[-1]["model"] == "SparsePO, independent masks" and rows[-1]["average"] == 6.25


def test_what_is_missing_on_the_leaderboard_stays_missing(tmp_path: Path) -> None:
    runs = runs_with(tmp_path, "leaderboard")
    write_leaderboard(runs[0].results["leaderboard"], None)
    rows = table(tmp_path, "table1", "table1-leaderboard", *runs)
    assert rows[0]["BBH"] is None and rows[0]["average"] is None and rows[0]["runs"] == [runs[0].name]
    assert f"{runs[1].name}" in (tmp_path / "page" / "index.html").read_text().split("What is missing")[1]


def test_ablations_on_the_leaderboard_stand_beside_the_papers(tmp_path: Path) -> None:
    runs = []
    for number, layers in enumerate(("all", "last")):
        run = trained(tmp_path, f"m{number}", None, 1, reward=0.1, kl=1.0, masks={"layers": layers})
        folder = tmp_path / "leaderboard" / run.name
        folder.mkdir(parents=True)
        write_leaderboard(folder, 3.0 + number)
        runs.append(replace(run, results={"board": folder}, drivers={"board": "leaderboard.py"}))
    rows = table(tmp_path, "table3", "table3-board", *runs)
    assert [row["model"] for row in rows[:2]] == ["all layers, 1 linear, beta 0.1", "last layer, 1 linear, beta 0.1"]
    assert rows[1]["average"]["mean"] == 4.0 and [row["average"] for row in rows[2:]] == [7.74, 7.03, 7.0]


def test_table_2_takes_the_winner_of_a_grid(tmp_path: Path) -> None:
    runs = runs_with(tmp_path, "code", betas=(0.1, 0.5))
    for number, run in enumerate(runs):
        result = {
            "pass@1": 0.1 * number, "left_out": ["pass@10", "pass@100"], "problems": 3, "samples": [1, 1, 1],
            "outcomes": {"passed": 3},
        }  # fmt: skip
        write_table(run.results["code"], run.name, {"mbpp": result}, "how")
    rows = table(tmp_path, "table2", "table2-code", *runs, selected={"dpo": runs[3].name})
    assert rows[0]["model"] == "DPO, beta 0.5" and rows[0]["MBPP pass@1"]["mean"] == pytest.approx(25.0)
    assert rows[0]["MBPP pass@10"] is None and rows[0]["runs"] == [runs[2].name, runs[3].name]
    assert rows[1] == {
        "model": "StarCoder 1B", "source": "reported", "HumanEval pass@1": 12.22, "HumanEval pass@10": 24.69,
        "HumanEval pass@100": 38.41, "MBPP pass@1": 17.83, "MBPP pass@10": 39.94, "MBPP pass@100": 59.60,
    }  # fmt: skip


def test_figure_5_has_each_metric_against_temperature(tmp_path: Path) -> None:
    runs = runs_with(tmp_path, "summary")
    for run, scores in zip(runs, ([10.0, 30.0], [20.0, 40.0]), strict=True):
        rows = [
            {"model": "m", "temperature": at, "rouge_l": 0.0, "per_prompt": {"rouge_l": [s + at for s in scores]}}
            for at in (0.25, 1.0)
        ]  # fmt: skip
        (run.results["summary"] / "summary.json").write_text(json.dumps({"rows": rows}))
    both = table(tmp_path, "figure5", "figure5-summary", *runs)
    assert [(row["temperature"], row["rouge_l"]["mean"]) for row in both] == [(0.25, 25.25), (1.0, 26.0)]
    assert both[0]["rouge_l"]["n"] == 2 and both[0]["rouge_l"]["over"] == "seeds"
    assert imread(tmp_path / "page" / "figure5-summary.png").std() > 0.01
    alone = table(tmp_path / "alone", "figure5", "figure5-summary", runs[0])
    assert alone[0]["rouge_l"] == {"mean": 20.25, "low": 10.25, "high": 30.25, "n": 2, "over": "prompts"}
