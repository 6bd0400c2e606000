"""PART=bench: whole steps against TRL's, at their share of the matrix rate, and memory beside `sparsepo plan`."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig

from benchmarks.gpu_day import material
from benchmarks.gpu_day.checks import Check, Day, Facts, FailedError, LeftOutError
from benchmarks.measure import matrix_rate
from benchmarks.step_worker import Measured, Work, our_arguments
from benchmarks.worker import figures_in
from sparsepo_dist.plan.speed.flops import necessary_flops

MOST_TIME, PLANNED = 0.5, 0.1
"""Targets: our step's time of TRL's, and how far the peak may be from the plan."""
OURS: dict[str, Any] = {"objective.name": "sparsepo", "reference.placement": "replicated"}
GIB = 2**30


def against_trl(size: str, day: Day) -> Facts:
    """Full SparsePO and DPO against TRL's DPO: the same pairs and model, in bf16."""
    runs = {"SparsePO": work(day, size), "DPO": work(day, size, **{"objective.name": "dpo"})}
    found = {name: step(day, run) for name, run in runs.items()}
    if importlib.util.find_spec("trl") is None:
        raise LeftOutError("trl is not installed: ours alone", {"steps": _rows(day, size, found, base="SparsePO")})
    found["TRL DPO"] = step(day, dataclasses.replace(work(day, size), system="trl"))
    facts = {"steps": _rows(day, size, found, base="TRL DPO")}
    share = sum(found["SparsePO"].seconds) / sum(found["TRL DPO"].seconds)
    if share > MOST_TIME:
        raise FailedError(f"SparsePO takes {share:.2f} of the time of TRL's DPO, more than {MOST_TIME}", facts)
    return facts


def planned(size: str, day: Day) -> Facts:
    """The most memory of a step beside `sparsepo plan` of the same options."""
    own = work(day, size)
    found, file = step(day, own), day.output / f"plan-{size}.json"
    pairs = [pair for one in found.tokens for pair in one]
    mean = sum(prompt + chosen + rejected - 2 for prompt, chosen, rejected in pairs) / len(pairs)
    arguments = our_arguments(own, day.output)
    day.python(
        "-m", "sparsepo_dist.commands.main", "plan", *arguments, "--gpus=1", "--gpu_memory=1024",
        f"--tokens_per_pair={mean}", f"--device={day.device}", f"--json={file}",
    )  # fmt: skip
    plan = json.loads(file.read_text(encoding="utf-8"))["peak"]
    off = found.peak_bytes / plan["bytes"] - 1
    facts = {"measured GiB": found.peak_bytes / GIB, "planned GiB": plan["bytes"] / GIB, "off by": off, **plan}
    if abs(off) > PLANNED and not day.rehearsed:  # a tiny model's memory on a CPU is the process's
        raise FailedError(f"the peak is {off:+.0%} from the plan", facts)
    return facts


def attention(day: Day) -> Facts:
    """FlexAttention against block-wise SDPA."""
    names = ("blockwise",) if day.rehearsed else ("flex", "blockwise")
    found = {name: step(day, work(day, "410m", **{"model.attention": name})) for name in names}
    return {"steps": _rows(day, "410m", found, base=names[0])}


def compiled(day: Day) -> Facts:
    """What torch.compile of the policy's layers gains."""
    plain = work(day, "410m")
    found = {"eager": step(day, plain), "compiled": step(day, dataclasses.replace(plain, compiled=True))}
    return {"steps": _rows(day, "410m", found, base="eager")}


def reference(day: Day) -> Facts:
    """What the reference costs: no more than this can be gained by a stream of its own beside the policy's forward."""
    folder = day.output / "bench-cache"
    options = our_arguments(dataclasses.replace(work(day, "410m"), fields=OURS), day.output)
    if not folder.is_dir():
        day.python("launch/cache.py", *options, f"--reference.cache={folder}", "--all_layers=true")
    without = work(day, "410m", **{"reference.placement": "cached", "reference.cache": str(folder)})
    found = {"replicated": step(day, work(day, "410m")), "cached": step(day, without)}
    return {"steps": _rows(day, "410m", found, base="replicated")}


def work(day: Day, size: str, **changed: Any) -> Work:
    """Steps of 16 pairs in bf16 under ZeRO-0; in a rehearsal of 2, in fp32."""
    dtype = torch.float32 if day.rehearsed else torch.bfloat16
    name = str(dtype).removeprefix("torch.")
    steps, per_step = (2, 2) if day.rehearsed else (6, 16)
    file = day.data / "hh_harmless_base.jsonl" if day.data is not None else material.pairs(day, steps * per_step)
    return Work(
        "ours", str(material.model(day, size, dtype)), str(file), name, steps=steps, pairs_per_step=per_step,
        max_length=1024, fields={**OURS, **changed},
    )  # fmt: skip


def step(day: Day, asked: Work) -> Measured:
    """One process's steps; the same work is measured once a day."""
    described = json.dumps(dataclasses.asdict(asked))
    if described not in day.measured:
        said = day.python("-m", "benchmarks.step_worker", described, at_most=240)
        day.measured[described] = Measured(**figures_in(said))
    found: Measured = day.measured[described]
    return found


def _rows(day: Day, size: str, found: Mapping[str, Measured], base: str) -> list[dict[str, Any]]:
    """A row for each: time of the base's, packed tokens a second, model FLOPs' share of the matrix rate, memory."""
    first = next(iter(found.values()))
    dtype = torch.float32 if day.rehearsed else torch.bfloat16
    lengths = [pair for one in first.tokens for pair in one]
    flops = necessary_flops(AutoConfig.from_pretrained(material.model(day, size, dtype)), lengths)
    tokens = sum(prompt + chosen + rejected - 2 for prompt, chosen, rejected in lengths)
    rate = matrix_rate(dtype, torch.device(day.device), rounds=3, size=256 if day.rehearsed else None)
    return [
        {
            "run": name, f"time / {base}": sum(one.seconds) / sum(found[base].seconds),
            "seconds": sum(one.seconds), "tokens/s": tokens / sum(one.seconds),
            "MFU": flops / sum(one.seconds) / rate, "GiB": one.peak_bytes / GIB,
        }
        for name, one in found.items()
    ]  # fmt: skip


CHECKS = (
    Check("Pythia-410M against TRL", partial(against_trl, "410m")),
    Check("Pythia-410M, memory", partial(planned, "410m")),
    Check("attention", attention),
    Check("Pythia-1.4B against TRL", partial(against_trl, "1.4b")),
    Check("Pythia-1.4B, memory", partial(planned, "1.4b")),
    Check("torch.compile", compiled),
    Check("the reference's part", reference),
)
