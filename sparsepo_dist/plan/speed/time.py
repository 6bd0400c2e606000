"""Seconds of an optimizer step: a model from a machine's terms, no measurement. Formulas: docs/scaling.md."""

from __future__ import annotations

from typing import NamedTuple

from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.asked.request import Setting
from sparsepo_dist.plan.asked.shapes import PairShape, batch_of, mean_pair
from sparsepo_dist.plan.model.census import Census, unique
from sparsepo_dist.plan.needs.exchanges import Collective
from sparsepo_dist.plan.needs.plan import Plan
from sparsepo_dist.plan.speed.flops import StepFlops, done_flops, necessary_flops
from sparsepo_dist.plan.speed.machine import Machine

MOMENTS_AND_MASTER = 3 * 4  # bytes of a trained number, read and written once a step


class StepTime(NamedTuple):
    """Seconds, where not said otherwise, of the rank with the most pairs."""

    machine: Machine
    flops: StepFlops
    """Of its products in a step."""
    necessary: float
    """Of those, the ones that no step can do without, averaged over ranks."""
    arithmetic: float
    transfer: float
    """Bytes over links."""
    latency: float
    """Starts and ring steps of all collectives."""
    hidden: float
    """Of the two, what runs beside arithmetic."""
    memory: float
    """The optimizer's traffic with memory, and 4-bit matrices unpacked."""
    tokens: float
    """Packed tokens of the global batch."""
    rate: float
    """Operations a second of the machine, at its peak."""

    @property
    def communication(self) -> float:
        """What arithmetic waits for."""
        return self.transfer + self.latency - self.hidden

    @property
    def total(self) -> float:
        """Of the step."""
        return self.arithmetic + self.communication + self.memory

    @property
    def tokens_per_second(self) -> float:
        """Packed tokens, over all ranks."""
        return self.tokens / self.total

    @property
    def share_of_rate(self) -> float:
        """Necessary products in a second, of the peak."""
        return self.necessary / self.total / self.rate


def step_time(plan: Plan, machine: Machine) -> StepTime:
    """The time of a planned step.

    Raises:
        UserError: something of it depends on the host, or the machine's terms do not cover the run.
    """
    setting, census = plan.setting, plan.census
    _refuse_hosts(setting)
    rate = machine.rate(setting.dtype)
    pair, layout = mean_pair(setting), setting.config.data.settled_layout
    pairs = -(-setting.pairs_per_step // setting.groups)
    together = max(1, round(pairs / plan.micro_batches))
    first_pass = setting.needs.global_means and plan.micro_batches > 1
    one = done_flops(setting, census, batch_of([pair] * together, layout), first_pass=first_pass)
    flops = StepFlops(*(part * pairs / (together * setting.together) for part in one))
    arithmetic = flops.total / (rate * machine.matrix_share)
    transfer = sum(item.bytes / machine.link(item.ranks or setting.ranks) for item in plan.traffic)
    latency = sum(
        item.calls * ring_latency(item.collective, item.ranks or setting.ranks, machine) for item in plan.traffic
    )
    return StepTime(
        machine=machine,
        flops=flops,
        necessary=_necessary(setting, pair) * setting.pairs_per_step / setting.ranks,
        arithmetic=arithmetic,
        transfer=transfer,
        latency=latency,
        hidden=machine.overlap * min(transfer + latency, arithmetic),
        memory=memory_bytes(setting, census, plan.micro_batches) / (machine.memory_bandwidth * 1e9),
        tokens=pair.tokens(layout) * setting.pairs_per_step,
        rate=rate,
    )


def ring_latency(collective: Collective, ranks: int, machine: Machine) -> float:
    """Seconds of one collective besides its bytes: a ring over n ranks takes n - 1 steps, an all-reduce twice that."""
    nodes = -(-ranks // machine.gpus_per_node)
    rounds = 2 if collective == "all-reduce" else 1
    between = rounds * (nodes - 1)
    within = rounds * (ranks - 1) - between
    return (machine.call_us + within * machine.step_us + between * machine.network_step_us) * 1e-6


def memory_bytes(setting: Setting, census: Census, micro_batches: int) -> float:
    """Bytes between a rank and its memory in the optimizer's step; and of unpacking 4-bit matrices in every pass."""
    size = setting.element_size
    trained = census.count(trained=True) / (setting.ranks if setting.stage else 1)
    # Moments and master weights are read and written; gradients read for their norm and again; weights written.
    step = trained * (2 * MOMENTS_AND_MASTER + 3 * size)
    passes = 2 + (setting.placement == "adapter") + bool(setting.config.model.activation_checkpointing)
    packed = sum(weight.numel for weight in unique(census.policy) if weight.stored < weight.numel)
    return step + packed * (0.5 + size) * passes * micro_batches


def _necessary(setting: Setting, pair: PairShape) -> float:
    return necessary_flops(
        setting.policy,
        [[pair.prompt, *[pair.response] * pair.responses]],
        trained=setting.config.model.adapter == "none",
        reference=setting.placement not in (None, "cached"),
        trust_remote_code=setting.config.model.trust_remote_code,
    )


def _refuse_hosts(setting: Setting) -> None:
    if setting.optimizer_offloaded or setting.parameters_offloaded or "offload" in (
        setting.placement, *(setting.oracle_placement(role) for role in setting.oracles)
    ):  # fmt: skip
        raise UserError("machine: the time of a step with parts offloaded to the host is not modelled; leave it out")
