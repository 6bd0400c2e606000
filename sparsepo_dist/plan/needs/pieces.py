"""What a step's phases are put together from: each piece found where its own module knows how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sparsepo_dist.engines.config import Checkpointing, Placement
from sparsepo_dist.plan.asked.request import Setting, adapter_shape
from sparsepo_dist.plan.asked.shapes import BatchShape
from sparsepo_dist.plan.model.activations import Activations, activations, scoring_peak
from sparsepo_dist.plan.model.census import Census, Unit, unique
from sparsepo_dist.plan.model.decoder import Decoder
from sparsepo_dist.plan.model.gathering import Gathered, embedding, gather, policy_order, scoring_order
from sparsepo_dist.plan.model.head import HeadBytes, head_bytes
from sparsepo_dist.plan.needs.states import Training, training


class Pieces(NamedTuple):
    """Bytes on one rank, where not said otherwise."""

    policy: Activations
    scoring: int
    """Activations of whoever scores without a gradient: the reference, an oracle or the policy without its adapter."""
    head: HeadBytes
    training: Training
    gathered: Gathered
    scoring_gathered: int
    rows: int
    """Final hidden rows of the reference."""
    readings: int
    """What masks read, kept until backward is done."""
    unpacked: int
    """The largest 4-bit matrix in the dtype of computation."""
    embedding: int
    """Gradient of the embedding where it is trained."""
    tied: bool
    """Whether embedding and head are one parameter."""
    batches: int
    """Packed micro-batches: those that frozen models score at once, twice if they are several."""


def find_pieces(setting: Setting, census: Census, shape: BatchShape, micro_batches: int) -> Pieces:
    """The pieces of a step on one rank. Raises UserError as `activations`."""
    size, group = setting.element_size, scored_at_once(setting, census, micro_batches)
    scored = shape.times(group)
    gathered = policy_gathering(setting, census)
    scoring, scoring_gathered = _scoring(setting, census, shape, scored, gathered)
    rows = scored.predicted_by_one_of(setting.together)
    # An objective that looks at the whole global batch first keeps all of it.
    packed = micro_batches if setting.needs.global_means and micro_batches > 1 else group
    read = census.readings
    # A single layer's hidden rows are the final ones themselves.
    layers = read.hidden_layers if read.hidden_layers > 1 else 0
    first = embedding(census.policy)
    return Pieces(
        policy=policy_activations(setting, shape, checkpointing=setting.config.model.activation_checkpointing),
        scoring=scoring,
        head=head_bytes(setting, census, shape)._replace(scoring=head_bytes(setting, census, scored).scoring),
        training=training(setting, census, micro_batches),
        gathered=gathered,
        scoring_gathered=scoring_gathered,
        rows=rows * read.width * size,
        readings=layers * rows * read.width * size + read.sites * rows * 4,
        unpacked=max((w.numel * size for w in unique(census.policy) if w.stored < w.numel), default=0),
        embedding=first.numel * size if first.trained else 0,
        tied=first in census.heads.weights,
        batches=shape.bytes * packed + (scored.bytes if group > 1 else 0),
    )


def policy_activations(setting: Setting, shape: BatchShape, *, checkpointing: Checkpointing) -> Activations:
    """Activations of the policy's body on a rank, as configured but for checkpointing. Raises UserError as
    `activations`.
    """
    whole = activations(policy_decoder(setting, shape)._replace(checkpointing=checkpointing))
    return Activations(*(-(-bytes_ // setting.together) for bytes_ in whole))


def policy_gathering(setting: Setting, census: Census) -> Gathered:
    """What ZeRO-3 gathers in the policy's engine; nothing below stage 3 or where whole parameters rest here anyway."""
    if setting.stage < 3 or (setting.ranks == 1 and not setting.parameters_offloaded):
        return Gathered({}, 0, 0)
    own = setting.placement == "adapter"
    order = policy_order(
        census,
        own_reference=own,
        own_head=own and setting.needs.divergence is None,
        checkpointing=bool(setting.config.model.activation_checkpointing),
    )
    return gather(order, setting.zero)


def frozen_gathering(setting: Setting, census: Census) -> dict[str, Gathered]:
    """The same of the reference's and the oracles' engines, where they shard."""
    engines: dict[str, tuple[Sequence[Unit], Placement | None]] = {
        "reference": (census.reference, setting.placement),
        **{role: (units, setting.oracle_placement(role)) for role, units in census.oracles.items()},
    }
    found = {}
    for name, (units, placement) in engines.items():
        if not units or placement is None or placement in ("replicated", "adapter"):
            continue
        if setting.ranks > 1 or (placement == "offload" and setting.request.device == "cuda"):
            found[name] = gather(scoring_order(units), setting.inference_zero(placement))
    return found


def scored_at_once(setting: Setting, census: Census, micro_batches: int) -> int:
    """Micro-batches that frozen models score in one pass."""
    if setting.together > 1 or not frozen_gathering(setting, census):
        return 1
    return min(micro_batches, setting.config.micro_batches_per_pass)


def policy_decoder(setting: Setting, shape: BatchShape) -> Decoder:
    """The policy's body, for micro-batches of a shape. Raises UserError as `adapter_shape`."""
    model = setting.config.model
    return Decoder(
        config=setting.policy,
        dtype=setting.dtype,
        shape=shape,
        adapter=None if model.adapter == "none" else adapter_shape(setting.config),
        checkpointing=model.activation_checkpointing,
        dropout=not model.disable_dropout,
        linears_keep_input=setting.linears_keep_input,
        trust_remote_code=model.trust_remote_code,
        attention=model.attention,
    )


def frozen_decoders(setting: Setting, shape: BatchShape) -> list[Decoder]:
    """Bodies of the reference and the oracles, where they have engines of their own.

    Raises:
        UserError: as `adapter_shape`.
    """
    own = policy_decoder(setting, shape)
    return [
        own._replace(config=config, adapter=None, checkpointing=False, dropout=False)
        for config in (None if setting.placement == "cached" else setting.reference, *setting.oracles.values())
        if config is not None
    ]


def _scoring(
    setting: Setting, census: Census, shape: BatchShape, scored: BatchShape, policy: Gathered
) -> tuple[int, int]:
    """Activations, and what is gathered, where the reference and the oracles score; zeros where nobody does."""
    if decoders := frozen_decoders(setting, scored):
        gathered = (engine.at("scoring") for engine in frozen_gathering(setting, census).values())
        return max(map(scoring_peak, decoders)) // setting.together, max(gathered, default=0)
    if setting.placement == "adapter":
        return scoring_peak(policy_decoder(setting, shape)) // setting.together, policy.at("scoring")
    return 0, 0
