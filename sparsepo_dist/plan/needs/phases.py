"""A step's phases, and what is in a rank's memory in each: a step's peak is the largest, not the sum of all parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from sparsepo_dist.plan.asked.request import Setting
from sparsepo_dist.plan.asked.shapes import BatchShape
from sparsepo_dist.plan.model.census import Census
from sparsepo_dist.plan.needs.pieces import Pieces, find_pieces
from sparsepo_dist.plan.needs.states import frozen_weights, policy_weights

MIB = 2**20
FRAMEWORK = {"cuda": 1536 * MIB, "cpu": 50 * MIB}
"""CUDA context and kernels, NCCL's buffers, cuBLAS's workspaces; on a CPU, code that the first step loads."""


@dataclass(frozen=True)
class Parts:
    """Bytes in a rank's memory."""

    weights: int = 0
    """Policy, adapters, mask heads, the reference's head."""
    optimizer: int = 0
    """Adam's moments and float32 master weights."""
    gradients: int = 0
    batches: int = 0
    """Packed micro-batches, their attention masks above all."""
    reference: int = 0
    """Its own engine's weights."""
    oracles: int = 0
    gathered: int = 0
    """Whole parameters that ZeRO-3 holds for a while, fetched ahead or not yet released."""
    buckets: int = 0
    """Of gradients on their way: buffers, and gradients too large for them."""
    activations: int = 0
    head: int = 0
    """The fused operation: kept logits, tiles, gradients of rows and head."""
    readings: int = 0
    """Hidden rows and activations of the reference that masks and divergence need."""
    temporaries: int = 0
    """Of the optimizer's step; or the 4-bit matrix in use, unpacked."""
    framework: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(vars(self).values())


class Phase(NamedTuple):
    """A moment of a step."""

    name: str
    parts: Parts


class Memory(NamedTuple):
    """A rank's memory through a step."""

    phases: list[Phase]
    host: int
    """Bytes of host memory that offloaded parts of this rank take."""

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.parts.total)


def memory(setting: Setting, census: Census, shape: BatchShape, micro_batches: int) -> Memory:
    """Every phase of an optimizer step on one rank, in bytes. Raises UserError as `activations`."""
    pieces = find_pieces(setting, census, shape, micro_batches)
    weights = policy_weights(setting, census)
    reference = None
    if census.reference and setting.placement is not None:
        reference = frozen_weights(setting, census.reference, setting.placement)
    oracles = [frozen_weights(setting, units, setting.oracle_placement(role)) for role, units in census.oracles.items()]
    resting = Parts(
        weights=weights.device,
        optimizer=pieces.training.optimizer,
        reference=reference.device if reference else 0,
        oracles=sum(engine.device for engine in oracles),
        buckets=pieces.training.resting_buckets,
        batches=pieces.batches,
        framework=FRAMEWORK[setting.request.device],
    )
    engines = [*([reference] if reference else []), *oracles]
    host = weights.host + pieces.training.host + sum(engine.host for engine in engines)
    phases = [*_forward_phases(pieces, resting), *_backward_phases(pieces, resting)]
    if setting.placement in (None, "cached"):
        phases = phases[1:]
    return Memory([*_loading(setting, census, pieces), *phases], host)


def _loading(setting: Setting, census: Census, pieces: Pieces) -> list[Phase]:
    """4-bit models are whole on every rank before ZeRO-3 shards them."""
    if setting.stage < 3 or not pieces.unpacked or setting.request.device == "cpu":
        return []
    whole = sum(weight.bytes + weight.constants for weight in census.policy_weights)
    parts = Parts(weights=whole, temporaries=pieces.unpacked, framework=FRAMEWORK[setting.request.device])
    return [Phase("loading", parts)]


def _forward_phases(pieces: Pieces, resting: Parts) -> list[Phase]:
    resting = dataclasses.replace(resting, gradients=pieces.training.waiting, readings=pieces.rows + pieces.readings)
    scoring = dataclasses.replace(
        resting,
        activations=pieces.scoring,
        head=pieces.head.scoring,
        gathered=pieces.scoring_gathered,
        temporaries=pieces.unpacked,
    )
    forward = dataclasses.replace(
        resting,
        activations=pieces.policy.forward,
        gathered=pieces.gathered.at("forward"),
        temporaries=pieces.unpacked,
    )
    head = dataclasses.replace(
        resting,
        activations=pieces.policy.kept,
        gathered=pieces.gathered.at("head"),
        head=pieces.head.kept + pieces.head.forward,
    )
    return [
        Phase("reference scoring", scoring),
        Phase("policy forward", forward),
        Phase("policy forward, head", head),
    ]


def _backward_phases(pieces: Pieces, resting: Parts) -> list[Phase]:
    head, trained = pieces.head, pieces.training
    buckets = max(trained.buckets, resting.buckets)
    head_backward = dataclasses.replace(
        resting,
        gradients=trained.early,
        buckets=buckets,
        activations=pieces.policy.kept,
        gathered=pieces.gathered.at("head"),
        readings=pieces.rows + pieces.readings,
        head=head.kept + head.backward + head.gradient + head.gradient_sum,
    )
    blocks = dataclasses.replace(
        resting,
        gradients=trained.early,
        buckets=buckets + trained.reduction,
        activations=pieces.policy.backward,
        gathered=pieces.gathered.at("backward"),
        readings=pieces.readings,
        # Autograd holds a tied head's gradient until the embedding's is there to be added.
        head=head.gradient if pieces.tied else 0,
        temporaries=pieces.unpacked,
    )
    end = dataclasses.replace(
        blocks,
        gradients=trained.late,
        activations=pieces.policy.last + pieces.embedding,
        gathered=pieces.gathered.at("end"),
    )
    step = dataclasses.replace(resting, gradients=trained.summed, temporaries=trained.step)
    return [
        Phase("backward of the head", head_backward),
        Phase("backward of the last block", blocks),
        Phase("backward of the first block and the embedding", end),
        Phase("optimizer step", step),
    ]
