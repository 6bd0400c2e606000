"""Commands of the README and docs/training.md that are run; tests/test_docs.py reads all as their programs do."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

from tests.support.documents import DRIVERS, ROOT, blocks, commands
from tests.support.tiny import save_tiny_model, write_pairs
from tests.support.warm import hearth, warm

COMMANDS = commands("README.md") + commands("docs/training.md")


def console(command: str, *more: str) -> subprocess.CompletedProcess[str]:
    """One of COMMANDS, from the project's root."""
    program, *arguments = shlex.split(command)
    installed = str(Path(sys.executable).with_name(program))
    return subprocess.run(
        warm(installed, *arguments, *more), cwd=ROOT, env={**os.environ, **hearth()}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_every_driver_is_in_the_readme() -> None:
    assert {f"evaluation/{name}.py" for name in DRIVERS} == {c.split()[1] for c in COMMANDS if " evaluation/" in c}
    assert {path.stem for path in (ROOT / "evaluation").glob("*.py")} == set(DRIVERS)


def test_sparsepo_doctor_prints_the_kernels_in_use() -> None:
    done = console(next(command for command in COMMANDS if command == "sparsepo doctor"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^token_stats float32 +cpp \(built at ", done.stdout, re.MULTILINE), done.stdout


def test_sparsepo_doctor_asks_a_model(tmp_path: Path) -> None:
    command = next(command for command in COMMANDS if command.startswith("sparsepo doctor --model.path"))
    done = console(command.replace("DIR_OR_HUB_ID", str(save_tiny_model(tmp_path / "model", "gpt_neox"))))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^(prefix_shared|packed|padded) .*right", done.stdout, re.MULTILINE)) == 3, done.stdout


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
    assert "ignored: reference" not in done.stderr


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
    (snippet,) = (block for block in blocks("docs/performance.md", "python") if "token_stats" in block)
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
