"""The benchmarks that no mirror here holds, on made-up documents in their datasets' form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nltk
import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.leaderboard import lm_eval_tasks
from sparsepo_dist.evaluation.leaderboard import run as leaderboard_run
from sparsepo_dist.evaluation.leaderboard.command import LeaderboardOptions
from sparsepo_dist.evaluation.leaderboard.lm_eval_tasks import load_tasks
from sparsepo_dist.evaluation.leaderboard.run import run_leaderboard
from tests.support.tiny import save_tiny_model

METRICS = {
    "leaderboard_gpqa_main": ["acc_norm"],
    "leaderboard_math_algebra_hard": ["exact_match"],
    "leaderboard_mmlu_pro": ["acc"],
    "leaderboard_musr_team_allocation": ["acc_norm"],
    "leaderboard_ifeval": ["inst_level_strict_acc", "prompt_level_strict_acc"],
}
SHOTS = {"leaderboard_mmlu_pro": 5, "leaderboard_math_algebra_hard": 4}


def write_dataset(folder: Path, configuration: str, splits: dict[str, list[dict[str, Any]]]) -> None:
    """A dataset's repository of one configuration, as a mirror has it."""
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {configuration}\n  data_files:\n{files}---\n")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """Eight documents of every benchmark but BBH."""
    folder, numbers = tmp_path / "mirror", range(8)
    wrong = {f"Incorrect Answer {k}": f"no {k}" for k in (1, 2, 3)}
    gpqa = [{"Question": f"{n}?", "Correct Answer": f"yes {n}", **wrong} for n in numbers]
    write_dataset(folder / "Idavidrein" / "gpqa", "gpqa_main", {"train": gpqa})
    math = [{"problem": f"{n}+1", "solution": f"$\\boxed{{{n + 1}}}$", "level": "Level 5", "type": "Algebra"}
            for n in numbers]  # fmt: skip
    write_dataset(folder / "DigitalLearningGmbH" / "MATH-lighteval", "algebra", {"train": math, "test": math})
    mmlu = [{"question": f"{n}?", "options": list("abcdefghij"), "answer": "C"} for n in numbers]
    write_dataset(folder / "TIGER-Lab" / "MMLU-Pro", "default", {"test": mmlu, "validation": mmlu})
    musr = [{"narrative": f"{n}.", "question": "who?", "choices": "['he', 'she', 'it']", "answer_choice": "it"}
            for n in numbers]  # fmt: skip
    splits = ("murder_mysteries", "object_placements", "team_allocation")
    write_dataset(folder / "TAUR-Lab" / "MuSR", "default", dict.fromkeys(splits, musr))
    rule = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"n": None}]}
    ifeval = [{"key": n, "prompt": "No commas.", **rule} for n in numbers]
    write_dataset(folder / "wis-k" / "instruction-following-eval", "default", {"train": ifeval})
    return folder


@pytest.mark.slow
def test_every_benchmark_runs(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk, "download", lambda *_, **__: True)  # no sentence is counted here

    def brief(names: Sequence[str], **arguments: Any) -> dict[str, Any]:
        tasks = load_tasks(names, **arguments)
        for task in tasks.values():
            if task.get_config("output_type") == "generate_until":
                task.set_config("generation_kwargs", {"max_gen_toks": 16}, update=True)
        return tasks

    monkeypatch.setattr(leaderboard_run, "load_tasks", brief)
    model = save_tiny_model(tmp_path / "model", positions=2048)
    options = LeaderboardOptions(str(model), tmp_path / "out", tasks=list(METRICS), limit=1, hub_mirror=mirror)
    said: list[str] = []
    run_leaderboard(options, said.append)
    tables = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    for task, metrics in METRICS.items():
        result = tables["tasks"][task]
        assert all(0 <= result["metrics"][f"{metric},none"] <= 1 for metric in metrics), task
        assert result["shots"] == SHOTS.get(task, 0)
    ours = tables["rows"][0]
    assert None not in (ours["scores"]["MMLU-Pro"], ours["scores"]["IFEval prompt"])
    assert ours["scores"]["GPQA"] is None and ours["average"] is None


def test_the_seed_alone_decides_the_order_of_choices(mirror: Path) -> None:
    def order(seed: int) -> list[str]:
        task = load_tasks(["leaderboard_gpqa_main"], mirror=mirror, seed=seed)["leaderboard_gpqa_main"]
        answers = [document["answer"] for document in task.eval_docs]
        assert [document["answer"] for _, document in task.doc_iterator()] == answers  # asked and scored alike
        return answers

    first = order(0)
    assert len(set(first)) > 1
    assert order(1) != first and order(0) == first


def test_sentence_counting_is_looked_for_before_anything_is_generated(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> None:
        raise LookupError

    monkeypatch.setattr(lm_eval_tasks, "_load_task", lambda *_: pytest.fail("a task was loaded"))
    monkeypatch.setattr(nltk.data, "find", missing)
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    with pytest.raises(UserError, match="leaderboard_ifeval needs nltk's punkt_tab"):
        load_tasks(["leaderboard_ifeval"], mirror=mirror, seed=0)
