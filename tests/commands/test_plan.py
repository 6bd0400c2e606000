"""`sparsepo plan` as a user meets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sparsepo_dist.commands.main import main
from tests.support.tiny import save_tiny_model


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["sparsepo", "plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()  # nothing but the configuration is read
    return folder


def test_what_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    code = run(monkeypatch, "--gpus", 2, "--model.path", model, "--data.max_length", 128, "--json", file)
    text, values = capsys.readouterr().out, json.loads(file.read_text())
    assert code == 0 and "It fits" in text and "backward of" in text
    assert values["fits"] and values["remedies"] == [] and values["gpus"] == 2
    assert values["peak"]["bytes"] == max(phase["total"] for phase in values["phases"].values())
    for phase in values["phases"].values():
        assert phase.pop("total") == sum(phase.values())
    kept = [values["activations"][f"{how}_checkpointing"]["kept"] for how in ("with", "selective", "without")]
    assert kept == sorted(set(kept))


def test_time_on_a_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    file, shape = tmp_path / "plan.json", ("--model.path", model, "--data.max_length", 128)
    assert run(monkeypatch, "--gpus", 16, *shape, "--machine", "h100", "--matrix_tflops", 100, "--json", file) == 0
    text, plan = capsys.readouterr().out, json.loads(file.read_text())
    seconds = plan["time"]
    assert "by a model, not measured: h100, peak figures and assumptions; products at 40% of 100 TFLOP/s" in text
    parts = ("arithmetic", "transfer", "latency", "memory")
    assert seconds["total_seconds"] == pytest.approx(sum(seconds[f"{part}_seconds"] for part in parts))
    assert seconds["tokens_per_second"] > 0 and f"{seconds['tokens_per_second']:,.0f}" in text
    assert run(monkeypatch, "--gpus", 16, *shape, "--json", file) == 0
    assert "not measured" not in capsys.readouterr().out and json.loads(file.read_text())["time"] is None


def test_what_does_not_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path) -> None:
    shape = ("--data.max_length", 128, "--data.max_prompt_length", 64, "--training.pairs_per_step", 256)
    big = ("--data.tokens_per_micro_batch", 24_400, "--training.precision", "fp32")
    code = run(monkeypatch, "--gpus", 2, "--gpu_memory", 1.66, "--model.path", model, *shape, *big)
    text = capsys.readouterr().out
    assert code == 1 and "does not fit" in text and "--data.tokens_per_micro_batch" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpus", 0), "gpus: 0"),
        (("--gpus", 2, "--gpu_memory", 0), "gpu_memory: 0"),
        (("--gpus", 2, "--tokens_per_pair", 0), "tokens_per_pair: 0"),
        (("--gpus", 2, "--overlap", 0.5), "overlap: it is a term of a machine; name one with --machine"),
        (("--gpus", 2, "--machine", "abacus"), "machine: abacus is neither h100 nor a100 nor a file"),
        (("--gpus", 2, "--machine", "h100", "--matrix_share", 2), "matrix_share: 2.0 must be in (0, 1]"),
        (("--gpus", 2, "--ds_config", "nowhere.json"), "no such file nowhere.json"),
        (("--gpus", 2, "--model.path", "builtin:gpt5"), "model.path: builtin:gpt5 is not built in; there is builtin:"),
        (("--gpus", "1:30"), "gpus: a whole number is wanted, found 1:30"),
        (("--gpus", 2, "--data.max_lenght", 64), "did you mean --data.max_length?"),
        (("--gpus", "two"), "error: "),
        (("--gpus", 2, "--model.path", "/proc/no"), "/proc/no"),
        (("--gpus", 2, "--json", "/proc/no/plan.json"), "json: /proc/no/plan.json"),
        (("--gpus", 2, "--data.max_length", 100_000), "max_length 100000 exceeds"),
        (("--gpus", 2, "--reference.placement", "adapter"), "reference.placement"),
        (("--gpus", 2, "--model.adapter", "lora", "--lora.targets", "nothing"), "lora.targets"),
    ],
)
def test_mistakes_are_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path,
    arguments: tuple[object, ...], words: str,
) -> None:  # fmt: skip
    given = () if "--model.path" in arguments else ("--model.path", model)
    length = () if "--data.max_length" in arguments else ("--data.max_length", 128)
    assert run(monkeypatch, *given, *length, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") or "\nerror: " in error
    assert words in error and "Traceback" not in error


@pytest.mark.parametrize(
    "section",
    [
        {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 4}},
        {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
        {"optimizer": {"type": "Lion", "params": {}}},
        {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2, "train_batch_size": 6},
    ],
)
def test_no_plan_rather_than_a_wrong_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path,
    section: dict[str, object],
) -> None:  # fmt: skip
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(section))
    shape = ("--data.max_length", 128, "--model.path", model)
    assert run(monkeypatch, "--gpus", 2, "--ds_config", file, *shape) == 2
    assert "ds_config: " in capsys.readouterr().err


def test_a_parameter_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == 2
