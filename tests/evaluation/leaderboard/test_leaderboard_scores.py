"""The leaderboard's normalisation on recorded raw scores, and its tables beside the paper's."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.leaderboard.normalisation import (
    COLUMNS,
    GROUPS,
    TASKS,
    average,
    column_score,
    normalised,
    selected_tasks,
)
from sparsepo_dist.evaluation.leaderboard.tables import measured_row, reported_rows, write_tables

FULL = {"limit": None}
COLUMN = {column.name: column for column in COLUMNS}
# The leaderboard's own evaluation of EleutherAI/pythia-1.4b, as right answers of all (run of 2025-01-28 in the hub's
# dataset open-llm-leaderboard/EleutherAI__pythia-1.4b-details).
BBH = {
    "boolean_expressions": (129, 250),
    "causal_judgement": (96, 187),
    "date_understanding": (46, 250),
    "disambiguation_qa": (75, 250),
    "formal_fallacies": (117, 250),
    "geometric_shapes": (21, 250),
    "hyperbaton": (125, 250),
    "logical_deduction_five_objects": (58, 250),
    "logical_deduction_seven_objects": (35, 250),
    "logical_deduction_three_objects": (85, 250),
    "movie_recommendation": (66, 250),
    "navigate": (145, 250),
    "object_counting": (43, 250),
    "penguins_in_a_table": (31, 146),
    "reasoning_about_colored_objects": (24, 250),
    "ruin_names": (52, 250),
    "salient_translation_error_detection": (56, 250),
    "snarks": (96, 178),
    "sports_understanding": (138, 250),
    "temporal_sequences": (61, 250),
    "tracking_shuffled_objects_five_objects": (49, 250),
    "tracking_shuffled_objects_seven_objects": (39, 250),
    "tracking_shuffled_objects_three_objects": (82, 250),
    "web_of_lies": (128, 250),
}
GPQA = {"diamond": (54, 198), "extended": (144, 546), "main": (114, 448)}
MATH = {
    "algebra": (6, 307), "counting_and_prob": (1, 123), "geometry": (0, 132), "intermediate_algebra": (0, 280),
    "num_theory": (2, 154), "prealgebra": (1, 193), "precalculus": (0, 135),
}  # fmt: skip
MUSR = {"murder_mysteries": (128, 250), "object_placements": (71, 256), "team_allocation": (68, 250)}


def result(metrics: dict[str, float], documents: int) -> dict[str, Any]:
    return {"metrics": {f"{k},none": v for k, v in metrics.items()}, "documents": documents, "shots": 0}


def recorded() -> dict[str, dict[str, Any]]:
    """By task, as the driver keeps them."""
    choice = {
        **{f"leaderboard_bbh_{name}": counts for name, counts in BBH.items()},
        **{f"leaderboard_gpqa_{name}": counts for name, counts in GPQA.items()},
        **{f"leaderboard_musr_{name}": counts for name, counts in MUSR.items()},
    }
    results = {name: result({"acc_norm": right / count}, count) for name, (right, count) in choice.items()}
    for name, (right, count) in MATH.items():
        results[f"leaderboard_math_{name}_hard"] = result({"exact_match": right / count}, count)
    results["leaderboard_mmlu_pro"] = result({"acc": 1351 / 12032}, 12032)
    ifeval = {"inst_level_strict_acc": 249 / 834, "prompt_level_strict_acc": 95 / 541}
    results["leaderboard_ifeval"] = result(ifeval, 541)
    return results


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    folder = Path(lm_eval.__file__).parent / "tasks" / "leaderboard"
    return TaskManager(include_path=str(folder), include_defaults=False)


def test_the_published_examples() -> None:
    # huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization
    assert round(normalised(0.6, 4), 2) == 46.67
    assert [round(normalised(raw, n), 2) for raw, n in ((0.7, 2), (0.4, 5), (0.6, 3))] == [40.0, 25.0, 40.0]
    raw = {"murder_mysteries": 0.7, "object_placements": 0.4, "team_allocation": 0.6}
    musr = {f"leaderboard_musr_{name}": result({"acc_norm": value}, 9) for name, value in raw.items()}
    assert column_score(COLUMN["MuSR"], musr) == pytest.approx(35.0)
    assert normalised(0.2, 4) == 0.0 and normalised(0.25, 4) == 0.0
    assert normalised(1.0, 19) == pytest.approx(100.0) and normalised(0.31, 0) == pytest.approx(31.0)


def test_every_column_on_the_leaderboards_recorded_scores(manager: TaskManager) -> None:
    results = recorded()
    assert results.keys() == set(TASKS)
    assert sum(right for right, _ in BBH.values()) / sum(count for _, count in BBH.values()) == 0.31192501301857317
    configs = {name: manager.task_index[f"leaderboard_bbh_{name}"].cfg or {} for name in BBH}
    choices = {name: len(config["doc_to_choice"]) for name, config in configs.items()}
    above = [
        max(0.0, (right / count - 1 / choices[name]) / (1 - 1 / choices[name])) for name, (right, count) in BBH.items()
    ]
    want = {
        "BBH": 100 * sum(above) / 24,
        "MATH": 100 * 10 / 1324,  # lm-eval's accuracy of the group, 0.0075528...
        "GPQA": 100 * (312 / 1192 - 0.25) / 0.75,  # likewise of 0.2617449...
        "MuSR": 100 * ((0.512 - 0.5) / 0.5 + (0.27734375 - 0.2) / 0.8 + 0) / 3,
        "MMLU-Pro": 100 * (0.11228390957446809 - 0.1) / 0.9,
        "IFEval instruction": 29.856115107913667,
        "IFEval prompt": 17.56007393715342,
    }
    row = measured_row("pythia-1.4b", results, FULL)
    assert row.scores == pytest.approx(want, rel=1e-12)
    assert row.average == pytest.approx(sum(want.values()) / 7)


def test_tasks_and_choices_are_lm_evals(manager: TaskManager) -> None:
    assert set(manager.all_subtasks) == set(TASKS)
    assert set((manager.task_index["leaderboard"].cfg or {})["task"]) == GROUPS.keys()
    for group, tasks in GROUPS.items():
        if group in manager.all_groups:
            assert set((manager.task_index[group].cfg or {})["task"]) == set(tasks)
    for column in COLUMNS:
        for task, choices in column.choices.items():
            cfg = manager.task_index[task].cfg or {}
            assert column.metric.split(",")[0] in {metric["metric"] for metric in cfg["metric_list"]}
            if isinstance(cfg.get("doc_to_choice"), list):
                assert len(cfg["doc_to_choice"]) == choices, task


def test_the_papers_averages_are_means_of_all_seven_columns() -> None:
    for row in reported_rows():
        assert average(row.scores) == pytest.approx(row.average, abs=0.0101), row.model  # its columns are rounded


def test_names_of_groups_and_tasks() -> None:
    assert selected_tasks(["leaderboard_musr", "leaderboard_musr_team_allocation"]) == list(GROUPS["leaderboard_musr"])
    assert selected_tasks(GROUPS) == list(TASKS)
    with pytest.raises(UserError, match="leaderboard_bbh_snark is no task .* did you mean leaderboard_bbh_snarks"):
        selected_tasks(["leaderboard_bbh_snark"])


def test_tables_have_ours_first_and_the_papers_marked(tmp_path: Path) -> None:
    results = recorded()
    row = measured_row("a | b", results, FULL)
    write_tables(
        tmp_path,
        row,
        results,
        {"limit": None, "chat_template": {"leaderboard_ifeval": True, "leaderboard_bbh": False}},
        {},
    )
    markdown = (tmp_path / "leaderboard.md").read_text()
    lines = markdown.split("## Tasks")[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 1 + 9 and all(line.replace("\\|", "").count("|") == 11 for line in table)
    assert table[2].startswith("| a \\| b | measured | ") and table[2].endswith(f" {row.average:.2f} |")
    assert table[3] == "| SFT | reported | 2.87 | 0.30 | 0.78 | 4.02 | 1.71 | 25.90 | 14.97 | 7.22 |"
    assert all("| reported |" in line for line in table[3:])
    assert "Prompts are chat messages in leaderboard_ifeval, and plain text in all other tasks." in markdown
    assert "Missing" not in markdown and "smoke" not in markdown
    with (tmp_path / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["source"] for r in rows] == ["measured", *["reported"] * 9]
    assert rows[0]["GPQA"] == "1.57" and rows[-1]["average"] == "6.25"
    document = json.loads((tmp_path / "leaderboard.json").read_text())
    assert document["missing"] == [] and document["rows"][0]["average"] == row.average
    assert document["tasks"]["leaderboard_mmlu_pro"]["metrics"]["acc,none"] == 1351 / 12032


def test_what_is_missing_is_said_and_not_averaged(tmp_path: Path) -> None:
    results = recorded()
    del results["leaderboard_musr_team_allocation"]
    row = measured_row("m", results, {"limit": 4})
    assert row.scores["MuSR"] is None and row.average is None and row.scores["BBH"] is not None
    write_tables(tmp_path, row, results, {"limit": 4, "chat_template": False}, {})
    markdown = (tmp_path / "leaderboard.md").read_text()
    ours = next(line for line in markdown.splitlines() if line.startswith("| m |"))
    assert "| m | measured, limit 4 |" in ours and " missing |" in ours and ours.endswith("|  |")
    assert "MuSR (1 of 3 tasks)" in markdown and "not leaderboard scores" in markdown
    with (tmp_path / "leaderboard.csv").open() as file:
        first = next(csv.DictReader(file))
    assert first["source"] == "measured, limit 4" and first["MuSR"] == first["average"] == ""
    document = json.loads((tmp_path / "leaderboard.json").read_text())
    assert document["missing"] == ["leaderboard_musr_team_allocation"]
    assert document["rows"][0]["scores"]["MuSR"] is None and document["rows"][0]["average"] is None
