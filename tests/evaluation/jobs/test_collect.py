"""`jobs.py collect`: what each driver's own table ends with, as the drivers themselves write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.code.table import write_table
from sparsepo_dist.evaluation.frontier.command import frontier
from sparsepo_dist.evaluation.frontier.tables import put_together
from sparsepo_dist.evaluation.jobs.spec import read_plan
from sparsepo_dist.evaluation.jobs.store import JobStore
from sparsepo_dist.evaluation.jobs.table import Table, collect
from sparsepo_dist.evaluation.leaderboard.normalisation import COLUMNS, TASKS
from sparsepo_dist.evaluation.leaderboard.tables import measured_row, write_tables
from sparsepo_dist.evaluation.preference.tables import write_preference_tables
from sparsepo_dist.evaluation.summary.command import summary
from sparsepo_dist.queueing.job import DONE, State
from tests.support.evaluation_jobs import ROOT
from tests.support.tiny import save_tiny_model

SUITES = (
    "suites:\n  leaderboard:\n  code:\n  summary: {prompts: p.jsonl}\n  frontier: {reference: r}\n"
    "  preference: {pairs: p.jsonl}\n  own: {driver: %s}\n"
)


def done(folder: Path, *suites: str) -> dict[str, Path]:
    """A plan of all drivers, these suites of model m done; where their results are."""
    own = folder / "own.py"
    own.touch()
    (folder / "plan.yaml").write_text(f"output: {folder / 'out'}\nmodels: {{m: {folder / 'm'}}}\n" + SUITES % own)
    plan, places = read_plan(folder / "plan.yaml", ROOT / "evaluation"), {}
    for suite in plan.suites:
        job = JobStore(plan.output).add("m", str(folder / "m"), suite)
        if suite.name in suites:
            job.write(State(DONE))
        places[suite.name] = job.results
    return places


def collected(folder: Path) -> Table:
    return collect(read_plan(folder / "plan.yaml", ROOT / "evaluation"))[0]


def leaderboard_results(accuracy: float) -> dict[str, dict[str, Any]]:
    metrics = {column.metric: accuracy for column in COLUMNS}
    return {task: {"metrics": metrics, "documents": 10, "shots": 0} for task in TASKS}


def test_final_rows_of_tables_without_models(tmp_path: Path) -> None:
    places = done(tmp_path, "leaderboard", "code", "own")
    results, settings = leaderboard_results(0.75), {"limit": 10, "chat_template": True}
    write_tables(places["leaderboard"], measured_row("m", results, settings), results, settings, {})
    task = {
        "pass@1": 0.125, "pass@10": 0.5, "left_out": [], "problems": 2, "samples": [10, 10], "outcomes": {"x": 1}
    }  # fmt: skip
    write_table(places["code"], "m", {"humaneval": task}, "how")
    table = collected(tmp_path)
    row = table.rows["m"]
    assert row["leaderboard/GPQA"] == pytest.approx(100 * (0.75 - 0.25) / 0.75), "normalised, not an accuracy"
    assert row["leaderboard/average"] == pytest.approx(measured_row("m", results, settings).average)
    assert (row["code/HumanEval pass@1"], row["code/HumanEval pass@10"]) == (12.5, 50)
    assert not [column for column in row if "MBPP" in column]
    assert table.without == ("m/own",) and table.unfinished == ("m/summary", "m/frontier", "m/preference")
    text = table.as_markdown()
    assert "Done without a number: m/own" in text and "m/leaderboard: measured, limit 10." in text


def test_final_rows_of_what_is_measured_a_prompt_at_a_time(tmp_path: Path) -> None:
    places = done(tmp_path, "summary", "frontier")
    model = save_tiny_model(tmp_path / "m")
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "One", "summary": "a dog"}\n{"prompt": "Two", "summary": "a cat"}\n')
    small = ["--prompts", str(prompts), "--prompt_count", "2", "--samples", "2", "--max_new_tokens", "4"]
    summary(["--model", f"m={model}", "--output", str(places["summary"]), "--temperatures", "0.5", "1", *small])
    frontier(["--model", f"dpo={model}", "--reference", str(model), "--output", str(places["frontier"]), *small])
    table = collected(tmp_path)
    record = json.loads((places["summary"] / "summary.json").read_text())
    assert [row["temperature"] for row in record["rows"]] == [0.5, 1]
    for row in record["rows"]:
        for metric in ("rouge_l", "self_bleu"):
            assert table.rows["m"][f"summary/temperature {row['temperature']:g}/{metric}"] == row[metric]
    (point,) = json.loads((places["frontier"] / "frontier.json").read_text())["rows"]
    for name in ("kl", "kl_stderr", "reward", "reward_stderr"):
        assert table.rows["m"][f"frontier/{name}"] == point[name]
    assert table.notes == ("m/frontier: the reward is vaderSentiment compound, response only",)
    (places["frontier"] / "frontier.json").write_text("{}")
    with pytest.raises(UserError, match=r"the result .*frontier.json cannot be read"):
        collected(tmp_path)


def test_all_points_of_a_suite_are_one_figure_and_others_are_not_mixed_in(tmp_path: Path) -> None:
    files = []
    for number in (1, 2):
        model = save_tiny_model(tmp_path / f"m{number}", seed=number)
        command = ["--model", f"dpo={model}", "--reference", str(save_tiny_model(tmp_path / "start", seed=0))]
        out = tmp_path / f"out{number}"
        files.append(frontier([*command, "--output", str(out), "--prompt_count", "2", "--max_new_tokens", "4"]))
    files = [file.with_suffix(".json") for file in files]
    both = json.loads(put_together(files, tmp_path / "both").with_suffix(".json").read_text())
    parts = [json.loads(file.read_text()) for file in files]
    assert [row["kl"] for row in both["rows"]] == [part["rows"][0]["kl"] for part in parts]
    assert both["hypervolume"]["reference_point"]["kl"] == pytest.approx(1.1 * max(row["kl"] for row in both["rows"]))
    assert (tmp_path / "both" / "frontier.png").is_file()
    parts[1]["settings"]["top_p"] = 0.5
    files[1].write_text(json.dumps(parts[1]))
    with pytest.raises(UserError, match="out2/frontier.json was measured with another settings than .*out1"):
        put_together(files, tmp_path / "both")


def test_preferences_are_all_numbers_of_the_models_row_and_who_preferred(tmp_path: Path) -> None:
    places = done(tmp_path, "preference")
    row = {
        "model": "m",
        "method": "dpo",
        "step": 9,
        "path": "/m",
        "accuracy": 0.75,
        "own_missing": "none",
        "win_rate": 1.0,
    }
    settings = {"scorer": "a reward", "judge": None, "against": "b", "reference": "r", "beta": 0.1}
    write_preference_tables([row], settings, {}, places["preference"])
    table = collected(tmp_path)
    assert table.rows["m"] == {"preference/accuracy": 0.75, "preference/win_rate": 1.0}
    assert table.notes == ("m/preference: scorer is a reward",)
