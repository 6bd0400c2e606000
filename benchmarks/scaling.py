"""The tables of docs/scaling.md: memory and time of a step on 8 to 1,024 GPUs, by `sparsepo plan`'s model.

    python -m benchmarks.scaling [--machine h100] [--output FILE.json]

Nothing is measured and nothing downloaded: models are their configurations.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import GPTJConfig, GPTNeoXConfig, PretrainedConfig

from benchmarks.measure import describe
from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
from sparsepo_dist.plan.asked.request import Request
from sparsepo_dist.plan.needs.plan import GIB, make_plan
from sparsepo_dist.plan.speed.machine import Machine, find_machine
from sparsepo_dist.plan.speed.time import StepTime, step_time
from sparsepo_dist.runs.parsing import parse_train

GPUS = (8, 32, 128, 512, 1024)
LARGE_BUCKETS = {"reduce_bucket_size": 200_000_000, "stage3_prefetch_bucket_size": 200_000_000}


class Case(NamedTuple):
    """A model and how it is trained."""

    name: str
    config: PretrainedConfig
    recipe: str
    ds_config: str
    tokens_per_pair: float
    """Mean packed tokens: of 997 pairs of HH, as SmolLM2's tokenizer has them; for TL;DR an assumption."""
    fields: dict[str, Any]
    zero: dict[str, Any]


PYTHIA = GPTNeoXConfig(
    hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192, vocab_size=50304,
    max_position_embeddings=2048,
)  # fmt: skip
DIALOGUE, SUMMARIES = "dialogue/sparsepo_independent", "summaries/sparsepo_independent"
BF16 = {"training.precision": "bf16", "data.tokens_per_micro_batch": 8192}
CASES = (
    Case("Pythia-1.4B, fp32, ZeRO-3: the dialogue recipe", PYTHIA, DIALOGUE, "zero3", 215, {}, {}),
    Case("The same in bf16", PYTHIA, DIALOGUE, "zero3", 215, BF16, {}),
    Case("The same in bf16, ZeRO-2, buckets of 2 x 10^8", PYTHIA, DIALOGUE, "zero2", 215, BF16, LARGE_BUCKETS),
    Case("GPT-J 6B, QLoRA, ZeRO-2: the TL;DR recipe", GPTJConfig(), SUMMARIES, "zero2", 500, {}, {}),
)  # fmt: skip


def rows(case: Case, machine: Machine, folder: Path, *, grows: bool) -> Iterator[dict[str, Any]]:
    """A case on more and more GPUs, with its recipe's global batch; or one that grows with the GPUs from there."""
    case.config.save_pretrained(folder)
    ds_config = load_ds_config(f"ds_configs/{case.ds_config}.json")
    ds_config["zero_optimization"] |= case.zero
    fields = {"model.path": folder, **case.fields}
    first: StepTime | None = None
    for gpus in GPUS:
        given = ["--recipe", f"launch/recipes/{case.recipe}.yaml", *(f"--{k}={v}" for k, v in fields.items())]
        config = parse_train(given)
        if grows:
            config.training.pairs_per_step = (config.training.pairs_per_step or 0) * gpus // GPUS[0]
        plan = make_plan(Request(config, ds_config, gpus, case.tokens_per_pair))
        slow, fast = (step_time(plan, dataclasses.replace(machine, overlap=share)) for share in (0.0, 1.0))
        first = first or slow
        speed = slow.tokens_per_second / first.tokens_per_second
        yield {
            "GPUs": gpus,
            "pairs a step": plan.setting.pairs_per_step,
            "GiB": plan.peak / GIB,
            "arithmetic, s": slow.arithmetic,
            "bytes, s": slow.transfer,
            "latencies, s": slow.latency,
            "step, s": slow.total,
            "step, hidden": fast.total,
            "tokens/s": slow.tokens_per_second,
            "efficiency": speed * GPUS[0] / gpus,
        }


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """A table as docs/ has it."""
    lines = [list(found[0]), ["---"] * len(found[0]), *([_cell(value) for value in row.values()] for row in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.1f}"


def main() -> None:
    """Plan, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default="h100", help="as sparsepo plan's")
    parser.add_argument("--output", type=Path, help="JSON file of every figure")
    arguments = parser.parse_args()
    machine = find_machine(arguments.machine)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    tables = {}
    for case in tqdm(CASES, desc="cases"):
        for grows in (False, True):
            batch = "pairs grow with the GPUs" if grows else "the same pairs on all GPUs"
            with tempfile.TemporaryDirectory() as folder:
                found = list(rows(case, machine, Path(folder), grows=grows))
            tables[f"{case.name}; {batch}"] = found
            print(f"\n**{case.name}; {batch}**\n\n{markdown(found)}", flush=True)
    if arguments.output:
        made = {**describe(torch.device("cpu")), "device": f"none: a model from the terms of {machine.name}"}
        arguments.output.write_text(json.dumps({**made, "machine": machine.name, **tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
