"""The leaderboard driver: numbers equal to lm-eval's own, nothing run twice, and what stops it before a model loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sparsepo_dist.builtin.smollm2 import smollm2_folder
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.hub_mirror import reading_from
from sparsepo_dist.evaluation.leaderboard import run as leaderboard_run
from sparsepo_dist.evaluation.leaderboard.command import LeaderboardOptions, parse_options
from sparsepo_dist.evaluation.leaderboard.lm_eval_backend import CPU_BATCH_SIZE, load_model
from sparsepo_dist.evaluation.leaderboard.run import run_leaderboard
from sparsepo_dist.evaluation.target import target
from tests.support.tiny import save_tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[3]
MIRROR = ROOT.parent / "shared" / "data" / "hub_mirror"
MIRRORED = ("leaderboard_bbh_boolean_expressions", "leaderboard_bbh_sports_understanding")
CHAT_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
mirrored = pytest.mark.skipif(not MIRROR.is_dir(), reason="the project's shared data is not beside this checkout")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "model", positions=2048)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""
    monkeypatch.setattr(leaderboard_run, "load_model", lambda *_: pytest.fail("a model was loaded"))


def options(model: Path, output: Path, **changes: Any) -> LeaderboardOptions:
    fields: dict[str, Any] = {"tasks": MIRRORED, "limit": 2, "hub_mirror": MIRROR, **changes}
    return LeaderboardOptions(str(model), output, **fields)


def kept(output: Path, task: str) -> dict[str, Any]:
    return json.loads((output / "leaderboard" / f"{task}.json").read_text())


def directly(
    monkeypatch: pytest.MonkeyPatch, model_args: dict[str, str], limit: int, **arguments: Any
) -> dict[str, Any]:
    """What lm-eval's own entry point finds."""
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda _: None)  # it lists pip's packages for seconds
    tasks = TaskManager(include_path=str(Path(lm_eval.__file__).parent / "tasks/leaderboard"), include_defaults=False)
    with reading_from(MIRROR):
        found = simple_evaluate(
            model="hf", model_args=model_args, tasks=list(MIRRORED), limit=limit, batch_size=CPU_BATCH_SIZE,
            device="cpu", task_manager=tasks, **arguments,
        )  # fmt: skip
    assert found is not None
    return found["results"]


def assert_equal_numbers(output: Path, want: dict[str, Any]) -> None:
    for task in MIRRORED:
        metrics = kept(output, task)["result"]["metrics"]
        assert metrics and metrics == {key: want[task][key] for key in metrics}


@mirrored
@pytest.mark.slow
def test_numbers_are_lm_evals_own_and_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smollm2, said = smollm2_folder(), list[str]()
    run_leaderboard(options(smollm2, tmp_path), said.append)
    want = directly(monkeypatch, {"pretrained": str(smollm2)}, 2, apply_chat_template=True, fewshot_as_multiturn=True)
    assert_equal_numbers(tmp_path, want)
    record = kept(tmp_path, MIRRORED[0])
    assert record["settings"]["chat_template"] is True and record["settings"]["limit"] == 2
    assert record["versions"]["lm_eval"] and record["command"] and len(record["model"]["sha256"]) == 64
    assert record["result"]["documents"] == 2 and record["result"]["all_documents"] == 250
    assert "0 of 2 tasks were finished before, 2 to run" in said[0]

    written = (tmp_path / "leaderboard" / f"{MIRRORED[0]}.json").stat().st_mtime_ns
    monkeypatch.setattr(leaderboard_run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    again: list[str] = []
    run_leaderboard(options(smollm2, tmp_path), again.append)
    assert "2 of 2 tasks were finished before, 0 to run" in again[0]
    assert again[-1] == said[-1] and "measured, limit 2" in again[-1]
    assert (tmp_path / "leaderboard" / f"{MIRRORED[0]}.json").stat().st_mtime_ns == written


@mirrored
@pytest.mark.slow
def test_a_runs_adapter_is_evaluated_on_its_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final = tmp_path / "run" / "final"
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(model)
    adapted.save_pretrained(final)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE  # which its model lacks
    tokenizer.save_pretrained(final)
    (final.parent / "metrics.jsonl").touch()
    run_leaderboard(options(final.parent, tmp_path / "adapted", limit=12), print)
    run_leaderboard(options(model, tmp_path / "plain", limit=12), print)
    arguments = {"pretrained": str(model), "tokenizer": str(final), "peft": str(final)}
    want = directly(monkeypatch, arguments, 12, apply_chat_template=True, fewshot_as_multiturn=True)
    assert_equal_numbers(tmp_path / "adapted", want)
    record = kept(tmp_path / "adapted", MIRRORED[0])
    assert record["model"]["adapter"] == str(final) and record["settings"]["chat_template"] is True
    assert kept(tmp_path / "plain", MIRRORED[0])["settings"]["chat_template"] is False
    assert [kept(tmp_path / "adapted", task)["result"]["metrics"] for task in MIRRORED] != [
        kept(tmp_path / "plain", task)["result"]["metrics"] for task in MIRRORED
    ]


def stand_in(*finishing: str) -> Callable[..., dict[str, Any]]:
    """An evaluation that ends for these tasks and is interrupted at any other."""

    def evaluate(_: object, task: str, *__: object, **___: object) -> dict[str, Any]:
        if task not in finishing:
            raise KeyboardInterrupt
        return {
            "metrics": {"acc_norm,none": 0.75}, "documents": 8, "all_documents": 250, "shots": 3, "task_version": 1.0,
        }  # fmt: skip

    return evaluate


def test_what_finished_before_an_interruption_is_not_run_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboard_run, "load_tasks", lambda names, **_: {name: name for name in names})
    monkeypatch.setattr(leaderboard_run, "load_model", lambda *_: None)
    monkeypatch.setattr(leaderboard_run, "set_shots", lambda *_, **__: 3)
    monkeypatch.setattr(leaderboard_run, "evaluate", stand_in(MIRRORED[0]))
    plain = options(model, tmp_path / "out", hub_mirror=None)
    with pytest.raises(KeyboardInterrupt):
        run_leaderboard(plain, print)
    assert [path.name for path in (tmp_path / "out" / "leaderboard").iterdir()] == [f"{MIRRORED[0]}.json"]
    monkeypatch.setattr(leaderboard_run, "evaluate", stand_in(MIRRORED[1]))
    said: list[str] = []
    run_leaderboard(plain, said.append)
    assert "1 of 2 tasks were finished before, 1 to run" in said[0] and f"[1/1] {MIRRORED[1]}" in said
    tables = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert tables["tasks"].keys() == set(MIRRORED)  # of both calls
    assert tables["tasks"][MIRRORED[0]]["scores"] == {"BBH": pytest.approx(50.0)}
    for changed, name in (
        ({"limit": None}, "limit"),
        ({"seed": 3}, "seed"),
        ({"chat_template": ("yes",)}, "chat_template"),
        ({"chat_template": ("no", "leaderboard_ifeval=yes")}, "chat_template"),
        ({"chat_template": ("yes",), "chat_template_kwargs": {"a": 1}}, "chat_template, chat_template_kwargs"),
    ):
        with pytest.raises(UserError, match=f"measured with another {name}; name another --output"):
            run_leaderboard(options(model, tmp_path / "out", **{"hub_mirror": None, **changed}), print)


@pytest.mark.usefixtures("no_model")
def test_a_missing_dataset_is_named_with_its_place_before_a_model_loads(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror" / "SaylorTwift" / "bbh").mkdir(parents=True)

    def run(task: str) -> None:
        run_leaderboard(options(model, tmp_path / "out", tasks=[task], hub_mirror=tmp_path / "mirror"), print)

    with pytest.raises(UserError, match=f"gpqa_diamond reads .* should be in {tmp_path}/mirror/Idavidrein/gpqa"):
        run("leaderboard_gpqa")
    folder = tmp_path / "mirror" / "SaylorTwift" / "bbh"
    with pytest.raises(UserError, match=f"reads snarks of SaylorTwift/bbh, .*{folder}/README.md is missing: copy the"):
        run("leaderboard_bbh_snarks")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: navigate\n---\n")
    with pytest.raises(UserError, match=f"`configs:` of {folder}/README.md has only navigate, not snarks: copy"):
        run("leaderboard_bbh_snarks")
    with pytest.raises(UserError, match="--hub-mirror: there is no folder"):
        run_leaderboard(options(model, tmp_path / "out", hub_mirror=tmp_path / "nowhere"), print)


@pytest.mark.usefixtures("no_model")
def test_what_cannot_be_run_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=message):
            run_leaderboard(options(model, tmp_path / "out", **{"hub_mirror": None, **changes}), print)

    refused("leaderboard_ifevall is no task .*did you mean leaderboard_ifeval", tasks=["leaderboard_ifevall"])
    if shutil.which("vllm") is None:
        refused("vLLM is not installed; run `pip install vllm`", backend="vllm")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refused("2 processes were started and 1 GPUs are here")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    refused("GPUs of one machine only")


def test_what_the_template_is_told_reaches_lm_eval(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[dict[str, Any]] = []
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM", lambda **told: built.append(told))
    told = {"enable_thinking": False}
    load_model(target(str(model)), options(model, tmp_path, chat_template_kwargs=told))
    assert built[0]["chat_template_args"] == told
    with pytest.raises(UserError, match="prompts are no chat messages"):
        run_leaderboard(
            options(model, tmp_path, chat_template=("no",), chat_template_kwargs=told, hub_mirror=None), print
        )


def test_a_mirror_takes_this_process_off_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    parsed = parse_options(["--model", "m", "--output", "o", "--limit", "3"])
    assert parsed == LeaderboardOptions("m", Path("o"), limit=3) and os.environ["HF_HUB_OFFLINE"] == "0"
    assert parse_options(["--model", "m", "--output", "o", "--hub-mirror", "d"]).hub_mirror == Path("d")
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"
    told = parse_options(["--model", "m", "--output", "o", "--chat_template_kwargs", '{"enable_thinking": false}'])
    assert told.chat_template_kwargs == {"enable_thinking": False}
    for wrong in (["--limit", "0"], ["--batch_size", "many"], ["--chat_template_kwargs", "[1]"]):
        with pytest.raises(SystemExit):
            parse_options(["--model", "m", "--output", "o", *wrong])
    # Too late once the hub's client is imported.
    code = "import sys, sparsepo_dist.evaluation.leaderboard.command; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def started(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, script, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_what_lies_beside_the_script_shadows_no_module(tmp_path: Path) -> None:
    script = Path(shutil.copy(ROOT / "evaluation" / "leaderboard.py", tmp_path))
    (tmp_path / "argparse.py").write_text("raise SystemExit('the standard library has a module of this name')")
    ended = started(script, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "finished tasks are not run again" in ended.stdout


@pytest.mark.slow
def test_the_script_ends_with_a_message(tmp_path: Path) -> None:
    ended = started(ROOT / "evaluation" / "leaderboard.py", "--model", "./nowhere", "--output", str(tmp_path / "out"))
    assert ended.returncode == 2, ended.stderr
    assert "error: --model: there is no folder ./nowhere" in ended.stderr and "Traceback" not in ended.stderr
