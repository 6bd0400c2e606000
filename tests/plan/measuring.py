"""A run's predicted and measured peak, on this machine's CPU."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
from sparsepo_dist.plan.asked.request import Device, Request
from sparsepo_dist.plan.needs.plan import Plan, make_plan
from sparsepo_dist.runs.parsing import parse_train
from tests.plan.memory_worker import GLIBC_TUNABLES
from tests.support.runs import launch
from tests.support.tiny import tiny_tokenizer

PROMPT, RESPONSE = 64, 64  # tokens; one a letter, and EOS after a response


def save_model(folder: Path, config: PretrainedConfig) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_full_pairs(path: Path, count: int) -> Path:
    """Pairs that are exactly as long as the recipe allows, as a plan assumes."""
    generator = torch.Generator().manual_seed(0)

    def text(length: int) -> str:
        return "".join(chr(97 + int(i)) for i in torch.randint(26, (length,), generator=generator))

    rows = [
        {"prompt": text(PROMPT), "chosen": text(RESPONSE - 1), "rejected": text(RESPONSE - 1)} for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def arguments(fields: Mapping[str, Any]) -> list[str]:
    """Dotted fields as command line."""
    return [f"--{name}={value}" for name, value in fields.items()]


def predict(fields: Mapping[str, Any], ranks: int, device: Device = "cpu") -> Plan:
    """The plan of a run."""
    config = parse_train(arguments(fields))
    return make_plan(Request(config, load_ds_config(config.ds_config), ranks, device=device))


def measure(folder: Path, fields: Mapping[str, Any], ranks: int, *, keep_freed_memory: bool = False) -> int:
    """Most bytes of any rank's memory while the run trains, in processes of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    run, described = folder / "run", folder / "arguments.json"
    described.write_text(json.dumps([arguments({**fields, "output_dir": run}), keep_freed_memory]))
    before = os.environ.get("GLIBC_TUNABLES")
    if not keep_freed_memory:
        os.environ["GLIBC_TUNABLES"] = GLIBC_TUNABLES
    try:
        done = launch(["tests.plan.memory_worker", str(described)], ranks=ranks, timeout=1500, cold=True)
    finally:
        os.environ.pop("GLIBC_TUNABLES", None)
        if before is not None:
            os.environ["GLIBC_TUNABLES"] = before
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return max(json.loads(path.read_text())["peak"] for path in run.glob("memory-*.json"))
