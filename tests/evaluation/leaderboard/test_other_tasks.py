"""Any task of lm-eval by its name: GSM8K and TruthfulQA on made-up documents, held against lm-eval's entry point."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval.evaluator
import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.hub_mirror import reading_from
from sparsepo_dist.evaluation.jobs.finals import _leaderboard
from sparsepo_dist.evaluation.leaderboard import run as leaderboard_run
from sparsepo_dist.evaluation.leaderboard.changes import changes
from sparsepo_dist.evaluation.leaderboard.command import LeaderboardOptions, parse_options
from sparsepo_dist.evaluation.leaderboard.lm_eval_backend import CPU_BATCH_SIZE, write_samples
from sparsepo_dist.evaluation.leaderboard.lm_eval_tasks import load_named, set_shots
from sparsepo_dist.evaluation.leaderboard.normalisation import GROUPS
from sparsepo_dist.evaluation.leaderboard.run import run_leaderboard
from tests.evaluation.leaderboard.test_leaderboard_tasks import write_dataset
from tests.support.tiny import save_tiny_model, tiny_tokenizer

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
INSTRUCTION = "Answer in one word."
PAIR = "task: [truthfulqa_mc1, truthfulqa_mc2]"
GROUP = f"group: both_truths\n{PAIR}\naggregate_metric_list:\n- {{metric: acc, weight_by_size: true}}\n"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Datasets of GSM8K and TruthfulQA, in the hub's form."""
    folder = tmp_path / "mirror"
    sums = [{"question": f"What is {n} and {n}?", "answer": f"It doubles.\n#### {2 * n}"} for n in range(8)]
    write_dataset(folder / "openai" / "gsm8k", "main", {"train": sums, "test": sums[:4]})
    truths = []
    for n in range(6):
        choices = {"choices": [f"It is {n}.", "It is a secret.", "Nobody knows."], "labels": [1, 0, n % 2]}
        truths.append({"question": f"Which number is {n}?", "mc1_targets": choices, "mc2_targets": choices})
    write_dataset(folder / "truthfulqa" / "truthful_qa", "multiple_choice", {"validation": truths})
    return folder


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    """Of these, a group of two of them, HumanEval and a Python class: the index of all takes seconds."""
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "both.yaml").write_text(GROUP)
    tasks = Path(lm_eval.__file__).parent / "tasks"
    folders = [*(tasks / name for name in ("gsm8k", "truthfulqa", "humaneval", "squadv2")), tmp_path / "group"]
    made = TaskManager(include_path=list(map(str, folders)), include_defaults=False)
    monkeypatch.setattr(leaderboard_run, "every_manager", lambda: made)
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = save_tiny_model(tmp_path / "model", positions=2048)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def table(output: Path) -> dict[str, Any]:
    return json.loads((output / "leaderboard.json").read_text())


@pytest.mark.slow
def test_numbers_and_records_are_lm_evals_own(
    mirror: Path, manager: TaskManager, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, names = tmp_path / "out", ["gsm8k", "both_truths"]
    asked = LeaderboardOptions(
        str(model), out, tasks=names, num_fewshot=("2",), system_instruction=INSTRUCTION, limit=3, hub_mirror=mirror,
        log_samples=True,
    )  # fmt: skip
    run_leaderboard(asked, print)
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda _: None)  # it lists pip's packages for seconds
    with reading_from(mirror):
        want = simple_evaluate(
            model="hf", model_args={"pretrained": str(model)}, tasks=names, num_fewshot=2, limit=3, device="cpu",
            batch_size=CPU_BATCH_SIZE, system_instruction=INSTRUCTION, apply_chat_template=True, task_manager=manager,
            fewshot_as_multiturn=True, fewshot_random_seed=0,
        )  # fmt: skip
    assert want is not None
    others = table(out)["other_tasks"]
    assert others.keys() == {"gsm8k", "both_truths", "truthfulqa_mc1", "truthfulqa_mc2"}
    for name, record in others.items():
        metrics = record["metrics"]
        assert metrics and metrics == {key: pytest.approx(want["results"][name][key], rel=1e-12) for key in metrics}
    assert others["gsm8k"]["shots"] == 2 and others["truthfulqa_mc1"]["shots"] == 0
    for name in ("gsm8k", "truthfulqa_mc1"):
        rows = [json.loads(line) for line in (out / "tasks" / others[name]["samples"]).read_text().splitlines()]
        assert [row["prompt_hash"] for row in rows] == [row["prompt_hash"] for row in want["samples"][name]]
        assert [row["doc_id"] for row in rows] == [row["doc_id"] for row in want["samples"][name]]
    assert INSTRUCTION in rows[0]["arguments"]["gen_args_0"]["arg_0"]

    markdown = (out / "leaderboard.md").read_text()
    assert "| gsm8k | 2 (its own: 5) | chat, system instruction | 3 of 4 | exact_match | strict-match |" in markdown
    assert "| both_truths | — | chat, system instruction | 6 of 12 | acc | none |" in markdown
    assert "Open LLM Leaderboard" not in markdown and f"System instruction: {INSTRUCTION!r}." in markdown
    shown = _leaderboard(table(out)).numbers
    assert shown["both_truths acc,none"] == others["both_truths"]["metrics"]["acc,none"]
    assert "truthfulqa_mc1 acc,none" not in shown, "it counts in its group"

    monkeypatch.setattr(leaderboard_run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(leaderboard_run, "every_manager", lambda: pytest.fail("tasks were looked for"))
    said: list[str] = []
    run_leaderboard(asked, said.append)
    assert "2 of 2 tasks were finished before, 0 to run" in said[0]
    with pytest.raises(UserError, match="gsm8k.json was measured with another num_fewshot; name another --output"):
        run_leaderboard(LeaderboardOptions(**{**vars(asked), "num_fewshot": ("3",)}), print)


def refused(message: str, model: Path, mirror: Path, output: Path, **changes: Any) -> None:
    with pytest.raises(UserError, match=message):
        run_leaderboard(LeaderboardOptions(str(model), output, hub_mirror=mirror, **changes), print)


@pytest.mark.usefixtures("manager")
def test_what_cannot_be_asked_is_said_before_a_model_loads(
    mirror: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboard_run, "load_model", lambda *_: pytest.fail("a model was loaded"))

    def no(message: str, *tasks: str, **changes: Any) -> None:
        refused(message, model, mirror, tmp_path / "out", tasks=tasks, **changes)

    no("--tasks: lm-eval has no task, group or tag gsm9k; did you mean gsm8k", "gsm9k")
    no("humaneval runs what the model writes, in this process; evaluation/code.py has a sandbox", "humaneval")
    no("--num_fewshot few: give a number of examples", "gsm8k", num_fewshot=("few",))
    no("--num_fewshot: leaderboard_bb is no task of the leaderboard", "gsm8k", num_fewshot=("leaderboard_bb=2",))
    no("truthfulqa_mc1 has 0 examples by its own definition", "truthfulqa_mc1", num_fewshot=("truthfulqa_mc1=2",))
    no("squadv2 cannot be loaded: ", "squadv2")
    (mirror / "openai" / "gsm8k").rename(mirror / "openai" / "elsewhere")
    no(f"gsm8k reads the dataset openai/gsm8k, which the mirror lacks: it should be in {mirror}", "gsm8k")


def test_shots_by_lm_evals_rule(manager: TaskManager, mirror: Path) -> None:
    tasks, groups = load_named(manager, "both_truths", mirror=mirror, seed=0)
    assert tasks.keys() == {"truthfulqa_mc1", "truthfulqa_mc2"} and groups.keys() == {"both_truths"}
    (gsm8k,) = load_named(manager, "gsm8k", mirror=mirror, seed=0)[0].values()
    truth = tasks["truthfulqa_mc1"]
    assert (set_shots(gsm8k, None, by_name=False), gsm8k.get_config("num_fewshot")) == (5, 5)
    assert (set_shots(gsm8k, 1, by_name=True), gsm8k.get_config("num_fewshot")) == (5, 1)
    assert (set_shots(truth, 3, by_name=False), truth.get_config("num_fewshot")) == (0, 0)


def test_what_was_changed_from_the_leaderboards_rule_is_said() -> None:
    bbh = GROUPS["leaderboard_bbh"]
    results = {task: {"shots": 0, "own_shots": 3} for task in bbh} | {"leaderboard_ifeval": {"shots": 0}}
    assert changes(results, {"system_instruction": "Be brief."}) == [
        "a system instruction, 'Be brief.'", "0 few-shot examples instead of 3 in leaderboard_bbh",
    ]  # fmt: skip
    assert changes({task: {"shots": 3, "own_shots": 3} for task in bbh}, {}) == []


def test_options(tmp_path: Path) -> None:
    base = ["--model", "m", "--output", str(tmp_path)]
    given = parse_options([*base, "--tasks", "gsm8k", "--num_fewshot", "5", "gsm8k=0", "--log_samples"])
    assert (list(given.tasks), list(given.num_fewshot), given.log_samples) == (["gsm8k"], ["5", "gsm8k=0"], True)
    assert parse_options(base).num_fewshot == () and parse_options(base).system_instruction is None


def test_records_that_cannot_be_written_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval itself only logs that, where nobody looks."""
    row: dict[str, Any] = {"arguments": [("prompt",)], "resps": [], "filtered_resps": [], "target": "t", "doc_id": 0}
    named: Callable[..., str] = write_samples
    assert named(tmp_path, "gsm8k", [dict(row)]).startswith("samples_gsm8k_")
    monkeypatch.setattr("lm_eval.loggers.evaluation_tracker.json", SimpleNamespace(dumps=None))
    with pytest.raises(RunError, match="lm-eval wrote 0 of 1 records of gsm8k"):
        named(tmp_path, "gsm8k", [dict(row)])
