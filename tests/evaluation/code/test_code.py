"""evaluation/code.py: both steps with a harness that only has the command line of BigCode's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.code import command
from tests.evaluation.code.fake_harness import FakeHarness
from tests.support.evaluation_jobs import gone, until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def harness(tmp_path: Path) -> FakeHarness:
    return FakeHarness(tmp_path / "harness")


@pytest.fixture
def options(tmp_path: Path, harness: FakeHarness) -> list[str]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    mirror = tmp_path / "mirror"
    (mirror / "openai_humaneval").mkdir(parents=True)
    return ["--model", str(model), "--output", str(tmp_path / "out"), "--harness", str(harness.folder), "--tasks",
            "humaneval", "--n_samples", "4", "--batch_size", "3", "--hub-mirror", str(mirror)]  # fmt: skip


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_the_command_line_of_the_harness(options: list[str], harness: FakeHarness, said: list[str], out: Path) -> None:
    command.main(["generate", *options, "--limit", "5", "--seed", "3", "--dtype", "float16"], said.append)
    assert f"{harness.folder / 'main.py'} samples the programs" in said[0] and "outside the sandbox" in said[0]
    (call,) = harness.calls
    assert call.pop("save_generations_path").startswith(str(out / "generations" / ".harness-humaneval-"))
    assert call == {
        "model": options[1], "peft_model": None, "tasks": "humaneval", "precision": "fp16", "do_sample": "True",
        "n_samples": 4, "batch_size": 3, "max_length_generation": 512, "seed": 3, "save_every_k_tasks": 2, "limit": 5,
        "temperature": 0.6, "top_p": 0.95, "generation_only": True, "save_generations": True, "save_references": True,
        "allow_code_execution": False, "load_generations_intermediate_paths": None, "earlier": [],
        "folder": [".lock", "openai_humaneval"], "offline": "1",
    }  # fmt: skip
    record = json.loads((out / "generations" / "humaneval.json").read_text())
    assert record["settings"]["seed"] == 3 and record["result"]["harness"] == str(harness.folder / "main.py")
    assert [problem["programs"] for problem in record["result"]["problems"]] == [[f"x = {n}"] * 4 for n in range(5)]
    assert list((out / "generations").iterdir()) == [out / "generations" / "humaneval.json"]
    assert not list((Path(options[-1])).glob("references*"))


def test_an_adapter_and_greedy_decoding(
    options: list[str], harness: FakeHarness, said: list[str], tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": options[1]}))
    command.main(["generate", *options, "--model", str(adapter), "--temperature", "0", "--n_samples", "1"], said.append)
    (call,) = harness.calls
    assert (call["model"], call["peft_model"]) == (options[1], str(adapter))
    assert (call["do_sample"], call["temperature"], call["batch_size"]) == ("False", None, 1)


def test_both_steps_and_nothing_twice(options: list[str], harness: FakeHarness, said: list[str], out: Path) -> None:
    command.main([*options, "--allow_code_execution"], said.append)
    record = json.loads((out / "humaneval.json").read_text())
    assert record["result"]["pass@1"] == pytest.approx(2 / 3) and record["result"]["passed_per_problem"] == [4, 4, 0]
    assert record["settings"]["limits"]["cpu_seconds"] == 3 and record["command"] and record["model"]["sha256"]
    before = (out / "humaneval.json").read_bytes()
    command.main([*options, "--allow_code_execution"], said.append)
    assert len(harness.calls) == 1 and (out / "humaneval.json").read_bytes() == before
    assert "| model | measured | 66.67 |" in (out / "code.md").read_text()
    with pytest.raises(UserError, match="measured with another temperature"):
        command.main(["execute", *options, "--temperature", "0.2", "--allow_code_execution"], said.append)


def test_nothing_is_executed_unasked(
    options: list[str], harness: FakeHarness, said: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("executed")

    monkeypatch.setattr(command, "execute", never)
    with pytest.raises(UserError, match="would run 4 programs for each problem of humaneval, written by model"):
        command.main(options, said.append)
    assert harness.calls == []
    command.main(["generate", *options], said.append)
    with pytest.raises(
        UserError, match=r"would run 12 programs in .*generations \(humaneval\).*--allow_code_execution"
    ):
        command.main(["execute", *options], said.append)


def test_execution_needs_generations(options: list[str], said: list[str]) -> None:
    with pytest.raises(UserError, match="run `generate` first"):
        command.main(["execute", *options, "--allow_code_execution"], said.append)


def test_a_harness_that_dies_goes_on_where_it_was(
    options: list[str], harness: FakeHarness, said: list[str], out: Path
) -> None:
    (harness.folder / "dies").touch()
    with pytest.raises(RunError, match="ended with code 7 on humaneval.*goes on from there"):
        command.main(["generate", *options], said.append)
    assert not (out / "generations" / "humaneval.json").exists()
    (harness.folder / "dies").unlink()
    command.main(["generate", *options], said.append)
    # Of two whole problems and a part of a third, the last whole one is done again.
    assert harness.calls[1]["earlier"] == [["x = 0"] * 4]
    record = json.loads((out / "generations" / "humaneval.json").read_text())
    assert [problem["programs"] for problem in record["result"]["problems"]] == [[f"x = {n}"] * 4 for n in range(3)]


def test_a_killed_generation_takes_the_harness_with_it_and_is_alone_in_its_folder(
    options: list[str], harness: FakeHarness, said: list[str], out: Path
) -> None:
    options = [*options, "--dtype", "float32"]  # by itself each process would ask its machine, and this one may pretend
    (harness.folder / "waits").touch()
    program = "import sys\nfrom sparsepo_dist.evaluation.code.command import main\nmain(sys.argv[1:], print)"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "generate", *options], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    pid = harness.folder / "pid"
    until(lambda: (pid.is_file() and pid.read_text()) or process.poll() is not None)
    with pytest.raises(UserError, match="another process generates programs for humaneval in"):
        command.main(["generate", *options], said.append)
    process.kill()
    process.wait()
    until(lambda: gone(int(pid.read_text())))
    (harness.folder / "waits").unlink()
    command.main(["generate", *options], said.append)
    assert (out / "generations" / "humaneval.json").is_file()


@pytest.mark.parametrize(("there", "dtype"), [(True, "bf16"), (False, "fp32")])
def test_the_dtype_is_one_that_the_machine_multiplies(
    there: bool, dtype: str, options: list[str], harness: FakeHarness, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": there})
    command.main(["generate", *options], said.append)
    assert harness.calls[0]["precision"] == dtype


def test_too_few_samples_are_noticed(options: list[str], harness: FakeHarness, said: list[str]) -> None:
    (harness.folder / "short").touch()
    with pytest.raises(RunError, match=r"\[1\] samples a problem where 4 were asked for"):
        command.main(["generate", *options], said.append)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--harness", "/proc/no"], "--harness: /proc/no is no checkout.*git clone https://github.com/bigcode-project"),
        (["--tasks", "mbpp"], "MBPP reads the dataset mbpp, which the mirror lacks"),
        (["--n_samples", "0"], "--n_samples 0: at least 1"),
        (["--limit", "-1"], "--limit -1: at least 1"),
        (["--temperature", "-1"], "temperature must be at least 0"),
        (["--top_p", "0"], "top_p above 0"),
        (["--temperature", "0"], "makes all 4 samples the same"),
        (["--model", "/proc/no"], "there is no folder /proc/no"),
        (["--hub-mirror", "/proc/no"], "there is no folder /proc/no"),
    ],
)
def test_wrong_options(options: list[str], said: list[str], more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.main(["generate", *options, *more], said.append)


def test_without_a_harness_it_is_said_how_to_get_one(options: list[str], said: list[str], tmp_path: Path) -> None:
    where = options.index("--harness")
    with pytest.raises(UserError, match="not installed: get it with `git clone .* --backend lm-eval"):
        command.main(["generate", *options[:where], *options[where + 2 :]], said.append)


def test_the_script_does_not_stand_in_for_the_library(tmp_path: Path) -> None:
    """Its folder comes first in sys.path for every script beside it, and torch imports pdb, which imports code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = ROOT / "evaluation" / "code.py"
    done = subprocess.run(
        [sys.executable, str(script), "--model", "/proc/no", "--output", str(tmp_path)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 2 and "error: --model: there is no folder /proc/no" in done.stderr, done.stderr
    beside = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import pdb, code; code.InteractiveConsole"
    subprocess.run([sys.executable, "-c", beside], check=True, env=environment)
