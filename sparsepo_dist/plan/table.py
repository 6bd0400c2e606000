"""A plan as text for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sparsepo_dist.engines.config import Checkpointing
from sparsepo_dist.plan.needs.phases import Memory, Parts
from sparsepo_dist.plan.needs.pieces import policy_activations
from sparsepo_dist.plan.needs.plan import GIB, MARGIN, Plan, usable
from sparsepo_dist.plan.speed.time import StepTime
from sparsepo_dist.plan.switches import Remedy, describe

MICRO = 10**6
_CHECKPOINTING: dict[str, Checkpointing] = {
    "without_checkpointing": False, "selective_checkpointing": "selective", "with_checkpointing": True,
}  # fmt: skip
_HEADINGS = {
    "loading": "loading",
    "reference scoring": "scoring",
    "policy forward": "forward",
    "policy forward, head": "head",
    "backward of the head": "head <-",
    "backward of the last block": "last block <-",
    "backward of the first block and the embedding": "first block <-",
    "optimizer step": "step",
}


def as_text(plan: Plan, gpu_memory: float, remedies: Sequence[Remedy], seconds: StepTime | None = None) -> str:
    """The whole plan, aligned; `gpu_memory` is in GiB. Raises UserError as `activations`."""
    parts = [
        _title(plan), _parameters(plan), _batch(plan), _memory(plan.memory), _activations(plan), _traffic(plan),
        _time(plan, seconds), _verdict(plan, gpu_memory), _remedies(plan, gpu_memory, remedies),
        "What is assumed, and how figures are found: docs/planning.md",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def as_json(
    plan: Plan, gpu_memory: float, remedies: Sequence[Remedy], seconds: StepTime | None = None
) -> dict[str, Any]:
    """The whole plan; bytes, unless a name says otherwise. `gpu_memory` is in GiB.

    Raises:
        UserError: as `activations`.
    """
    setting, census = plan.setting, plan.census
    return {
        "model": setting.config.model.path,
        "gpus": setting.ranks,
        "device": setting.request.device,
        "dtype": str(setting.dtype).removeprefix("torch."),
        "zero_stage": setting.stage,
        "reference_placement": setting.placement,
        "parameters": {
            "all": census.count(),
            "trained": census.count(trained=True),
            "model": census.count("model"),
            "other_parts": census.count("other part"),
            "adapter": census.count("adapter"),
            "masks": census.count("masks"),
            "reference_head": census.count("reference head"),
        },
        "micro_batch": {**plan.shape._asdict(), "of_a_step": plan.micro_batches},
        "phases": {phase.name: {**vars(phase.parts), "total": phase.parts.total} for phase in plan.memory.phases},
        "peak": {"phase": plan.memory.peak.name, "bytes": plan.peak},
        "host_bytes": plan.memory.host,
        "activations": {
            name: policy_activations(setting, plan.shape, checkpointing=value)._asdict()
            for name, value in _CHECKPOINTING.items()
        },
        "traffic": [item._asdict() for item in plan.traffic],
        "time": None if seconds is None else _time_json(seconds),
        "gpu_memory_gib": gpu_memory,
        "margin": MARGIN,
        "fits": plan.fits(gpu_memory),
        "remedies": [
            {
                "switches": [describe(switch, remedy.plan) for switch in remedy.switches],
                "peak": remedy.plan.peak,
                "gpus": remedy.plan.setting.ranks,
            }
            for remedy in remedies
        ],
    }


def _title(plan: Plan) -> str:
    setting = plan.setting
    adapter = {"none": "all of it trained", "lora": "LoRA", "qlora": "QLoRA, NF4"}[setting.config.model.adapter]
    offloaded = [
        name
        for name, is_offloaded in (
            ("parameters", setting.parameters_offloaded), ("optimizer", setting.optimizer_offloaded)
        )
        if is_offloaded
    ]  # fmt: skip
    engine = f"ZeRO-{setting.stage}" + (f" with {' and '.join(offloaded)} offloaded" if offloaded else "")
    reference = f"reference {setting.placement}" if setting.placement else "no reference"
    ranks = f"{setting.ranks} {'GPU' if setting.request.device == 'cuda' else 'CPU rank'}"
    shared = f", {setting.together} of them to a micro-batch" if setting.together > 1 else ""
    return (
        f"{setting.config.model.path}: {setting.config.objective.name}, {adapter}, "
        f"{str(setting.dtype).removeprefix('torch.')}, {engine}, {reference}, "
        f"{ranks}{'s' * (setting.ranks > 1)}{shared}"
    )


def _parameters(plan: Plan) -> str:
    census = plan.census
    rows = [
        ("model", census.count("model")),
        ("other parts of the model, frozen", census.count("other part")),
        ("adapter", census.count("adapter")),
        ("mask heads", census.count("masks")),
        ("the reference's head beside the policy's", census.count("reference head")),
        ("trained", census.count(trained=True)),
    ]
    return _block("Parameters, millions", [(name, f"{count / MICRO:,.2f}") for name, count in rows if count])


def _batch(plan: Plan) -> str:
    shape, data = plan.shape, plan.setting.config.data
    rows = [
        ("packed tokens", f"{shape.tokens:,}"),
        ("response tokens", f"{shape.predicted:,}"),
        (f"attention, {data.settled_layout}", f"{shape.blocks} blocks of {shape.slots:,}"),
        ("micro-batches of a step, on each rank", f"{plan.micro_batches:,}"),
    ]
    return _block("Largest micro-batch, if every pair is as long as the recipe allows", rows)


def _memory(memory: Memory) -> str:
    names = [field.name for field in dataclasses.fields(Parts)]
    phases, peak = memory.phases, memory.peak
    header = [_HEADINGS[phase.name] + ("*" if phase is peak else "") for phase in phases]
    lines = [[name, *(_cell(getattr(phase.parts, name)) for phase in phases)] for name in names]
    shown = [line for line in lines if any(cell != "-" for cell in line[1:])]
    total = ["total", *(f"{phase.parts.total / GIB:.2f}" for phase in phases)]
    table = _aligned([["GiB", *header], *shown, total])
    note = f"* the peak: {peak.name}"
    if memory.host:
        note += f"\nHost memory of a rank, offloaded: {memory.host / GIB:.2f} GiB"
    return f"Memory of a rank in the phases of a step (<- is backward)\n{table}\n{note}"


def _activations(plan: Plan) -> str:
    rows = []
    for name, value in _CHECKPOINTING.items():
        found = policy_activations(plan.setting, plan.shape, checkpointing=value)
        text = f"{found.kept / GIB:.2f} GiB kept, {max(found.forward, found.backward) / GIB:.2f} at most"
        rows.append((name.replace("_", " "), text))
    return _block("Activations of the policy's body for that micro-batch", rows)


def _traffic(plan: Plan) -> str:
    if not plan.traffic:
        return "A single rank sends nothing."
    rows = [(f"{item.collective}, {item.purpose}", item.bytes, item.calls) for item in plan.traffic]
    rows.append(("total", sum(item.bytes for item in plan.traffic), sum(item.calls for item in plan.traffic)))
    cells = [[name, f"{size / GIB:,.2f} GiB", f"{calls:,}"] for name, size, calls in rows]
    return f"Sent by a rank in an optimizer step, in so many collectives\n{_aligned(cells)}"


def _time(plan: Plan, seconds: StepTime | None) -> str:
    if seconds is None:
        return ""
    rows = [
        ("arithmetic", f"{seconds.arithmetic:,.3f} s"),
        ("communication: bytes", f"{seconds.transfer:,.3f} s"),
        ("communication: latencies", f"{seconds.latency:,.3f} s"),
        ("of these beside arithmetic", f"{-seconds.hidden:,.3f} s"),
        ("optimizer and memory", f"{seconds.memory:,.3f} s"),
        ("step", f"{seconds.total:,.3f} s"),
        ("packed tokens a second", f"{seconds.tokens_per_second:,.0f}"),
        ("waiting for communication", f"{seconds.communication / seconds.total:.0%}"),
        ("necessary products, of the matrix rate", f"{seconds.share_of_rate:.0%}"),
    ]
    machine = seconds.machine
    where = "measured terms" if machine.measured else "peak figures and assumptions"
    title = (
        f"Time of an optimizer step by a model, not measured: {machine.name}, {where}; products at "
        f"{machine.matrix_share:.0%} of {seconds.rate / 1e12:,.4g} TFLOP/s"
    )
    return _block(title, [row for row in rows if plan.traffic or "communication" not in row[0]])


def _time_json(seconds: StepTime) -> dict[str, Any]:
    parts = ("arithmetic", "transfer", "latency", "hidden", "memory", "communication", "total")
    return {
        **{f"{name}_seconds": getattr(seconds, name) for name in parts},
        "tokens_per_second": seconds.tokens_per_second,
        "share_of_matrix_rate": seconds.share_of_rate,
        "flops": seconds.flops._asdict(),
        "necessary_flops": seconds.necessary,
        "machine": dataclasses.asdict(seconds.machine),
    }


def _verdict(plan: Plan, gpu_memory: float) -> str:
    verb, place = ("fits", "within") if plan.fits(gpu_memory) else ("does not fit", "above")
    verdict = (
        f"It {verb}: the peak of {plan.peak / GIB:.1f} GiB is {place} {usable(gpu_memory) / GIB:.1f} GiB, "
        f"{gpu_memory:g} GiB less a margin of {MARGIN:.0%}."
    )
    if plan.setting.request.device == "cpu":
        verdict += (
            "\nThis is memory in use. On CPUs malloc is told to keep what is freed, for speed: resident memory was 1.5 "
            "to 2.5 times as much where it was measured."
        )
    return verdict


def _remedies(plan: Plan, gpu_memory: float, remedies: Sequence[Remedy]) -> str:
    if plan.fits(gpu_memory):
        return ""
    if not remedies:
        return "None of the switches that were tried makes it fit, all of them together and 1,024 GPUs included."
    rows = [["switch", "peak", "cost"]]
    for remedy in remedies:
        *others, last = remedy.switches
        rows += [[describe(switch, remedy.plan), "and", switch.cost] for switch in others]
        rows.append([describe(last, remedy.plan), f"{remedy.plan.peak / GIB:.1f} GiB", last.cost])
    return f"What makes it fit, cheapest first\n{_aligned(rows, left=(0, 2))}"


def _block(title: str, rows: Sequence[tuple[str, str]]) -> str:
    return f"{title}\n{_aligned([list(row) for row in rows])}"


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cell(value: int) -> str:
    return f"{value / GIB:.2f}" if value else "-"
