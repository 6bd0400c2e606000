"""Commands of the README that are run; tests/test_docs.py reads all of them as their programs do."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_dist.builtin.pairs import sentiment_files
from sparsepo_dist.builtin.prompts import all_prompts
from sparsepo_dist.evaluation.frontier import command as frontier
from sparsepo_dist.runs.parsing import parse_train
from tests.support.documents import DEFAULT_RECIPE, DRIVERS, ROOT, blocks, commands
from tests.support.runs import assert_same_curve, train_all
from tests.support.tiny import save_tiny_model, write_pairs

COMMANDS = commands("README.md")


def console(command: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A command of the README, from the project's root."""
    program, *arguments = shlex.split(command)
    return subprocess.run(
        [Path(sys.executable).with_name(program), *arguments, *more], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_every_driver_is_in_the_readme() -> None:
    assert {f"evaluation/{name}.py" for name in DRIVERS} == {c.split()[1] for c in COMMANDS if " evaluation/" in c}
    assert {path.stem for path in (ROOT / "evaluation").glob("*.py")} == set(DRIVERS)


@pytest.mark.parametrize("recipe", sorted((ROOT / "launch" / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_are_understood_and_replace_the_default_one(recipe: Path) -> None:
    config = parse_train(["--recipe", str(recipe)], default_recipe=DEFAULT_RECIPE)
    config.validate()
    if recipe.stem == "dialogue":
        assert config.masks.layer_norm is False and config.data.max_length == 2048


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the experiment's model and pairs are kept: empty for the first test that needs them."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_raises_the_reward(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` after installation: the whole experiment, from an empty cache; then the frontier of its run."""
    run = tmp_path / "run"
    done = subprocess.run(
        [Path(sys.executable).with_name("sparsepo"), "demo", "--output_dir", str(run)],
        env={**os.environ, "SPARSEPO_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((run / "evaluation.json").read_text())
    assert result["difference"]["low"] > 0, result["difference"]
    assert 0 < result["response_kl"] < 50
    assert str(run) in done.stdout.splitlines()[-1]
    for name in (
        "config.yaml", "final/model.safetensors", "final/masks.safetensors", "final/README.md", "report/loss.png",
        "report/sparsity.png", "report/tokens.html",
    ):  # fmt: skip
        assert (run / name).is_file(), name
    assert list((run / "monitor").rglob("events.out.tfevents*"))
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["kl/chosen"] == 0 and 0.69314 < first["loss"] < 0.69316
    tokenizer = AutoTokenizer.from_pretrained(run / "final")
    lengths = {len(tokenizer(prompt)["input_ids"]) for prompt in all_prompts()}
    assert lengths <= {5, 6, 7, 8}
    monkeypatch.setenv("SPARSEPO_CACHE", str(cache))
    given = ["--model", str(run), "--output", str(tmp_path / "frontier"), "--prompt_count", "8", "--samples", "1"]
    record = json.loads(frontier.frontier(given).with_suffix(".json").read_text())
    (row,) = record["rows"]
    assert (row["method"], row["on_frontier"], record["reference"]["kl"]) == ("sparsepo", True, 0)
    assert 0 < row["kl"] < 50 and (tmp_path / "frontier" / "frontier.png").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_default_recipe_trains_alike_on_compiled_kernels_and_in_plain_pytorch(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of four of its pairs, the rest of it as it is."""
    monkeypatch.setenv("SPARSEPO_CACHE", str(cache))
    made = sentiment_files()
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("".join(made.heldout.read_text().splitlines(keepends=True)[:2]))
    fields = {
        "recipe": DEFAULT_RECIPE,
        "ds_config": ROOT / "ds_configs" / "zero3.json",
        "data.heldout": heldout,
        "training.pairs_per_step": 4,
        "training.max_steps": 2,
        "training.precision": "fp32",
    }
    runs = {name: {**fields, "ops.backend": name} for name in ("cpp", "eager")}
    trained = train_all(tmp_path, runs, timeout=3000)
    # Adam divides a gradient by its size: where it is all rounding, its sign alone moves a weight by the rate, 1e-4.
    assert_same_curve(trained["cpp"], trained["eager"], tolerance=1e-4)


def test_sparsepo_doctor_prints_the_kernels_in_use() -> None:
    done = console(next(command for command in COMMANDS if command == "sparsepo doctor"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^token_stats float32 +cpp \(built at ", done.stdout, re.MULTILINE), done.stdout


def test_sparsepo_plan_answers_as_shown(tmp_path: Path) -> None:
    """But for the model: the recipe's is on a hub."""
    model = save_tiny_model(tmp_path / "model", "gpt_neox", positions=2048)
    done = console(
        next(command for command in COMMANDS if command.startswith("sparsepo plan")), f"--model.path={model}"
    )
    assert done.returncode == 0, done.stderr
    assert "It fits: the peak of" in done.stdout and "80 GiB less a margin" in done.stdout


def test_sparsepo_cache_runs_as_shown(tmp_path: Path) -> None:
    """But for model and data, which the recipe has on a hub."""
    model = save_tiny_model(tmp_path / "model", "gpt_neox", positions=2048)
    pairs = write_pairs(tmp_path / "pairs.jsonl", 6)
    command = next(command for command in COMMANDS if command.startswith("sparsepo cache"))
    given = {"model.path": model, "data.train": pairs, "data.heldout": pairs, "reference.cache": tmp_path / "cache"}
    done = console(command, *(f"--{name}={value}" for name, value in given.items()))
    assert done.returncode == 0, done.stderr
    assert "6 pairs" in done.stdout and (tmp_path / "cache" / "cache.json").is_file()
    assert "reference.cache" not in done.stderr


def test_sparsepo_merge_runs_as_shown(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    given = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), peft.LoraConfig(target_modules=["q_proj"]))
    given.save_pretrained(tmp_path / "adapter")
    command = next(command for command in COMMANDS if command.startswith("sparsepo merge"))
    assert command.split()[2:] == ["runs/RUN/final", "MERGED_FOLDER"]
    done = console("sparsepo merge", str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert done.returncode == 0, done.stderr
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").num_parameters() > 0
    assert console("sparsepo merge", str(tmp_path / "adapter"), str(tmp_path / "merged")).returncode == 2


def test_the_operation_runs_as_shown() -> None:
    (snippet,) = (block for block in blocks("README.md", "python") if "token_stats" in block)
    hidden, reference_hidden = torch.randn(2, 5, 8)
    lm_head, reference_lm_head = (torch.nn.Linear(8, 20, bias=False) for _ in range(2))
    names: dict[str, Any] = {
        "hidden": hidden, "lm_head": lm_head, "labels": torch.arange(5), "reference_hidden": reference_hidden,
        "reference_lm_head": reference_lm_head, "m_u": torch.tensor([1.0, 0, 0, 2, 0]), "m_d": torch.ones(5),
    }  # fmt: skip
    exec(snippet, names)
    log_p, log_r = lm_head(hidden).log_softmax(-1), reference_lm_head(reference_hidden).log_softmax(-1)
    torch.testing.assert_close(names["stats"].divergence, (log_p.exp() * (log_p - log_r)).sum(-1))
    torch.testing.assert_close(names["stats"].policy_logp, log_p.diagonal())
    names["stats"].divergence.sum().backward()
    assert lm_head.weight.grad is not None
