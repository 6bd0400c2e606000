"""What would make a run fit: switches in order of their cost, each one judged by planning the run with it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sparsepo_dist.engines.config import Placement
from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.asked.request import Request
from sparsepo_dist.plan.asked.shapes import PairShape
from sparsepo_dist.plan.needs.plan import Plan, make_plan, usable

MOST_GPUS = 1024


class Switch(NamedTuple):
    """A change of a run."""

    flag: str
    """How to say it, `config` and `gpus` standing for what was found."""
    cost: str
    """What it costs."""
    apply: Callable[[Request], Request | None]
    """The changed request; None where there is nothing to change."""


class Remedy(NamedTuple):
    """Switches that together make a run fit."""

    switches: tuple[Switch, ...]
    plan: Plan
    """The run with them."""


def remedies(request: Request, gpu_memory: float) -> list[Remedy]:
    """What makes a run fit that does not, cheapest first: several cheap switches together where no cheap one does it
    alone, then every switch that does it alone. Empty if nothing helps.

    Args:
        gpu_memory: in GiB.
    """
    switches = _switches(gpu_memory)
    plans = {place: _try(request, switch) for place, switch in enumerate(switches)}
    alone = {place: plan for place, plan in plans.items() if plan is not None and plan.fits(gpu_memory)}
    together = _together(request, gpu_memory, switches[: min(alone, default=len(switches))])
    found = [Remedy((switches[place],), plan) for place, plan in alone.items()]
    return found if together is None else [together, *found]


def _together(request: Request, gpu_memory: float, switches: Sequence[Switch]) -> Remedy | None:
    """Switch after switch that lowers the peak, until the run fits; those that were not needed are left out again."""
    chosen: list[Switch] = []
    plan = make_plan(request)
    while not plan.fits(gpu_memory):
        tried = ((switch, _try(plan.setting.request, switch)) for switch in switches if switch not in chosen)
        better = next(
            ((switch, found) for switch, found in tried if found is not None and found.peak < plan.peak), None
        )
        if better is None:
            return None
        chosen.append(better[0])
        plan = better[1]
    for switch in reversed(chosen):
        fewer = [each for each in chosen if each is not switch]
        less = _try(request, *fewer)
        if less is not None and less.fits(gpu_memory):
            chosen, plan = fewer, less
    return Remedy(tuple(chosen), plan)


def _try(request: Request, *switches: Switch) -> Plan | None:
    """The plan with switches applied in turn; None where one of them cannot be."""
    changed: Request | None = request
    try:
        for switch in switches:
            changed = switch.apply(changed) if changed is not None else None
        return None if changed is None else make_plan(changed)
    except UserError:
        return None


def _switches(gpu_memory: float) -> list[Switch]:
    """Cheapest first: those that cost a little time, then much time, then another kind of training, then machines."""
    return [
        Switch("--model.activation_checkpointing true", "each block is computed a second time", _checkpointing),
        Switch(
            "--data.tokens_per_micro_batch {config.data.tokens_per_micro_batch}", "more micro-batches a step",
            _micro_batch(gpu_memory),
        ),
        Switch("--ops.keep_bytes 0", "the head's logits are computed a second time", _forget_logits),
        Switch("--reference.placement sharded", "the reference is gathered whenever it scores", _sharded),
        Switch("--reference.placement offload", "the reference is copied from the host whenever it scores", _offload),
        Switch("--reference.placement adapter", "none: the reference is the model without its adapter", _adapter),
        Switch("ds_config: zero_optimization.stage 3", "weights are gathered for each micro-batch", _stage_3),
        Switch("ds_config: zero_optimization.offload_optimizer cpu", "the step runs on the host", _offload_optimizer),
        Switch("ds_config: zero_optimization.offload_param cpu", "weights come from the host", _offload_parameters),
        Switch("--model.adapter lora", "only an adapter is trained", _lora),
        Switch("--model.adapter qlora", "only an adapter is trained, on a model in 4 bits", _qlora),
        Switch("--gpus {gpus}", "machines", _gpus(gpu_memory)),
    ]  # fmt: skip


def describe(switch: Switch, plan: Plan) -> str:
    """A switch as a user would write it, with the value that was found for it."""
    return switch.flag.format(config=plan.setting.config, gpus=plan.setting.ranks)


def _with(request: Request, room: str, **values: Any) -> Request:
    part = dataclasses.replace(getattr(request.config, room), **values)
    return dataclasses.replace(request, config=dataclasses.replace(request.config, **{room: part}))


def _zero(request: Request, **values: Any) -> Request:
    ds_config = copy.deepcopy(request.ds_config)
    ds_config.setdefault("zero_optimization", {}).update(values)
    return dataclasses.replace(request, ds_config=ds_config)


def _stage(request: Request) -> int:
    return int(request.ds_config.get("zero_optimization", {}).get("stage", 0))


def _checkpointing(request: Request) -> Request | None:
    if request.config.model.activation_checkpointing:
        return None
    return _with(request, "model", activation_checkpointing=True)


def _micro_batch(gpu_memory: float) -> Callable[[Request], Request | None]:
    """The largest of half the budget, a quarter and so on that fits; not less than the longest pair."""

    def apply(request: Request) -> Request | None:
        setting = make_plan(request).setting
        data = setting.config.data
        least = PairShape.longest(data, rejected=setting.needs.rejected).tokens(data.settled_layout)
        budget, found = data.tokens_per_micro_batch, None
        while budget > least:
            budget = max(budget // 2, least)
            found = _with(request, "data", tokens_per_micro_batch=budget)
            if make_plan(found).fits(gpu_memory):
                break
        return found

    return apply


def _forget_logits(request: Request) -> Request | None:
    return _with(request, "ops", keep_bytes=0) if request.config.ops.keep_bytes else None


def _sharded(request: Request) -> Request | None:
    return _place(request, "sharded") if _placement(request) == "replicated" else None


def _offload(request: Request) -> Request | None:
    return _place(request, "offload") if _placement(request) in ("replicated", "sharded") else None


def _adapter(request: Request) -> Request | None:
    config = request.config
    if config.model.adapter == "none" or config.reference.path or config.models.reference_is_policy:
        return None
    return _place(request, "adapter")


def _placement(request: Request) -> Placement:
    return request.config.models.placement(request.gpus)


def _place(request: Request, placement: str) -> Request:
    return _with(request, "reference", placement=placement)


def _stage_3(request: Request) -> Request | None:
    if _stage(request) == 3:
        return None
    return _zero(
        request, stage=3, stage3_prefetch_bucket_size="auto", stage3_param_persistence_threshold="auto",
        reduce_bucket_size="auto",
    )  # fmt: skip


def _offload_optimizer(request: Request) -> Request | None:
    section = request.ds_config.get("zero_optimization", {}).get("offload_optimizer", {})
    if _stage(request) == 0 or section.get("device", "none") != "none":
        return None
    return _zero(request, offload_optimizer={"device": "cpu", "pin_memory": True})


def _offload_parameters(request: Request) -> Request | None:
    section = request.ds_config.get("zero_optimization", {}).get("offload_param", {})
    if _stage(request) != 3 or section.get("device", "none") != "none":
        return None
    return _zero(request, offload_param={"device": "cpu", "pin_memory": True})


def _lora(request: Request) -> Request | None:
    return _adapted(request, "lora") if request.config.model.adapter == "none" else None


def _qlora(request: Request) -> Request | None:
    return _adapted(request, "qlora") if request.config.model.adapter != "qlora" else None


def _adapted(request: Request, kind: str) -> Request:
    request = _with(request, "model", adapter=kind)
    if request.config.reference.path is None:
        request = _place(request, "auto")
    return request


def _gpus(gpu_memory: float) -> Callable[[Request], Request | None]:
    """The least number that fits; the most that is tried if none does."""

    def fits(request: Request, number: int) -> bool:
        return make_plan(dataclasses.replace(request, gpus=number)).peak <= usable(gpu_memory)

    def apply(request: Request) -> Request | None:
        low, high = request.gpus, request.gpus
        if high >= MOST_GPUS:
            return None
        while high < MOST_GPUS:
            low, high = high, min(2 * high, MOST_GPUS)
            if fits(request, high):
                break
        while high - low > 1 and fits(request, high):
            middle = (low + high) // 2
            low, high = (low, middle) if fits(request, middle) else (middle, high)
        return dataclasses.replace(request, gpus=high)

    return apply
