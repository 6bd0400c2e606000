"""PART=train: trainings on one GPU against each other, and against the CPU."""

from __future__ import annotations

import importlib.util
import math
import shutil

from benchmarks.gpu_day.checks import Check, Day, Facts, FailedError, LeftOutError
from benchmarks.gpu_day.training import CPU, STEPS, ds_config, fields, hold, resume, steps_of, train, write_cache

SAME, ROUNDED = 2e-3, 5e-2
"""Greatest differences of metrics in fp32, sums in another order; and in a narrower type."""


def step_0(day: Day) -> Facts:
    """Before the first update the policy is the reference: DPO's loss is ln 2, and so is SparsePO's, in bf16 too."""
    facts: Facts = {}
    for objective in ("dpo", "sparsepo"):
        given = fields(day, objective__name=objective, training__precision="bf16", training__max_steps=1)
        facts[objective] = train(day, f"step-0-{objective}", given)[0]["loss"]
    wrong = [name for name, loss in facts.items() if abs(loss - math.log(2)) > 2e-3]
    if wrong:
        raise FailedError(f"not ln 2: {', '.join(wrong)}", facts)
    return facts


def cpu_against_gpu(day: Day) -> Facts:
    """The same four updates of a small model in fp32 on both devices."""
    given = fields(day, "70m", training__pairs_per_step=4)
    return hold(train(day, "small", given), train(day, "small-on-cpu", given, CPU), SAME)


def zero_3(day: Day) -> Facts:
    """ZeRO-3 on one rank, the reference sharded, makes ZeRO-0's updates."""
    plain = train(day, "zero-0", fields(day))
    sharded = fields(day, ds_config=ds_config(day, 3), reference__placement="sharded")
    return hold(train(day, "zero-3", sharded), plain, SAME)


def qlora(day: Day) -> Facts:
    """An adapter on a model in 4 bits: by bitsandbytes' kernels."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise LeftOutError("bitsandbytes is not installed")
    given = fields(day, model__adapter="qlora", training__precision="bf16", training__learning_rate=1e-3)
    rows = train(day, "qlora", given)
    return {"losses": [row["loss"] for row in rows]}


def cached(day: Day) -> Facts:
    """A cached reference makes the updates of one that is there."""
    cache = fields(day, reference__cache=day.output / "cache")
    if not (day.output / "cache").is_dir():
        write_cache(day, cache)
    rows = train(day, "cached", {**cache, "reference.placement": "cached"})
    return hold(rows, train(day, "zero-0", fields(day)), SAME)


def resumed(day: Day) -> Facts:
    """A run whose second half went on from a checkpoint has the steps of one that never ended."""
    given = fields(day, checkpoints__every_steps=STEPS // 2)
    whole = train(day, "whole", given)
    folder = day.output / "whole"
    shutil.rmtree(folder / "final")
    for later in sorted(folder.glob("checkpoints/step-*"))[1:]:
        shutil.rmtree(later)
    return hold(resume(day, "whole", given), whole, SAME)


def fp16(day: Day) -> Facts:
    """fp16, which only GPUs have, against fp32: steps that overflow while the scale is found are skipped."""
    if day.rehearsed:
        raise LeftOutError("DeepSpeed refuses fp16 on CPUs")
    scaled = ds_config(day, 0, fp16={"enabled": True, "initial_scale_power": 8}, bf16={"enabled": False})
    given = fields(day, ds_config=scaled, training__precision="auto")
    return hold(train(day, "fp16", given), train(day, "zero-0", fields(day)), ROUNDED)


def tokens(day: Day) -> Facts:
    """Tokens a second in bf16, for the record: the bench part measures them with care."""
    given = fields(day, training__precision="bf16", training__pairs_per_step=16)
    train(day, "bf16", given)
    return {"tokens per second": [row["tokens_per_second"] for row in steps_of(day.output / "bf16")]}


CHECKS = (
    Check("step 0", step_0), Check("CPU against GPU", cpu_against_gpu), Check("ZeRO-3", zero_3),
    Check("QLoRA", qlora), Check("cached reference", cached), Check("resume", resumed), Check("fp16", fp16),
    Check("tokens a second", tokens),
)  # fmt: skip
