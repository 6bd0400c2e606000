"""Every parameter of a run, counted on the meta device: what it is, how it is stored, which module uses it when."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from sparsepo_dist.contracts import OracleRole
from sparsepo_dist.engines.adapters.packing import packed_names
from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.engines.decoder.logits import logit_map
from sparsepo_dist.engines.decoder.structure import adapt, empty_model
from sparsepo_dist.engines.reference.engine import lends_head
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import ReferenceReadings
from sparsepo_dist.masks.decoder import decoder_blocks
from sparsepo_dist.masks.learned import MaskHeads
from sparsepo_dist.plan.asked.request import Setting

Role = Literal["model", "other part", "adapter", "masks", "reference head"]
BLOCK, SECOND_BLOCK = 64, 256
"""NF4: numbers that share a first-level scale, scales that share a second-level one (bitsandbytes' defaults)."""
TABLES = 4 * (16 + 256 + 1)
"""Bytes of NF4's code tables and offset, of each matrix."""


@dataclass(frozen=True)
class Weight:
    """A parameter."""

    name: str
    numel: int
    """Numbers it stands for."""
    stored: int
    """Elements it is stored as: fewer where two or more 4-bit numbers are packed into one."""
    element_size: int
    """Bytes of a stored element."""
    trained: bool
    matrix: bool
    """Whether it has two dimensions or more."""
    role: Role
    constants: int = 0
    """Bytes of quantisation constants, which are no parameters: every rank has all of them."""

    @property
    def bytes(self) -> int:
        """Bytes of the whole parameter, without constants."""
        return self.stored * self.element_size


@dataclass(frozen=True)
class Unit:
    """A module that is called: the parameters of its own are what ZeRO-3 gathers for it, if it has any."""

    weights: tuple[Weight, ...] = ()
    depth: int = 0
    """How many modules it lies in."""
    block: bool = False
    """Whether it is a whole decoder block: what activation checkpointing runs again."""


@dataclass(frozen=True)
class Readings:
    """What is kept of a pass of the reference, besides its final hidden rows."""

    width: int = 0
    """D of the reference; 0 without one."""
    hidden_layers: int = 0
    """How many layers' hidden rows masks are made from."""
    sites: int = 0
    """How many activations' means."""


@dataclass(frozen=True)
class Census:
    """The models of a run."""

    policy: tuple[Unit, ...]
    """The policy's body and adapters, in the order of its forward pass."""
    masks: Unit | None
    """Mask heads."""
    heads: Unit
    """The policy's LM head and, where it is in the same engine as a parameter of its own, the reference's."""
    others: Unit = Unit()
    """Parts of a composite beside its text decoder: frozen, and never called."""
    reference: tuple[Unit, ...] = ()
    """The reference's own engine, its head last where it stays there."""
    oracles: Mapping[OracleRole, tuple[Unit, ...]] = field(default_factory=dict)
    """Each oracle's own engine, likewise."""
    frozen_adapter: int = 0
    """Numbers of a second adapter, the reference's, inside the policy's model."""
    readings: Readings = Readings()

    @property
    def policy_weights(self) -> list[Weight]:
        """Parameters of the policy's engine, each once."""
        return unique((*self.policy, *([self.masks] if self.masks else []), self.heads, self.others))

    def count(self, *roles: Role, trained: bool | None = None) -> int:
        """Numbers in parameters of the policy's engine with those roles; all roles if none is named."""
        return sum(
            weight.numel
            for weight in self.policy_weights
            if (not roles or weight.role in roles) and trained in (None, weight.trained)
        )


def unique(units: Iterable[Unit]) -> list[Weight]:
    """Parameters of modules, tied ones once."""
    return list(dict.fromkeys(weight for unit in units for weight in unit.weights))


_taken: dict[str, Census] = {}


def take_census(setting: Setting) -> Census:
    """Build every model without weights and list its parameters; once for all plans of the same models.

    Raises:
        UserError: the architecture is not supported, adapters or masks do not fit it.
    """
    oracles = setting.oracles.items()
    named = [("model", setting.policy), ("reference", setting.reference), *oracles]
    models = [(role, model and model.to_json_string()) for role, model in named]
    config = setting.config
    lent = lends_head(setting.placement, setting.stage)
    parts = (setting.dtype, setting.needs, setting.mask_sources, setting.placement, lent, config.models, config.masks)
    key = repr((models, parts, config.data.settled_layout))
    if key not in _taken:
        _taken[key] = _take_census(setting)
    return _taken[key]


def _take_census(setting: Setting) -> Census:
    config, adapter = setting.config, setting.config.model.adapter
    model = _empty(setting, setting.policy)
    packed = packed_names(model) if adapter == "qlora" else frozenset()
    if adapter != "none":
        adapt(model, config.lora, setting.dtype, config.model.adapter_path)
    readings, scored = None, model
    if setting.reference is not None:
        scored = _empty(setting, setting.reference)
    if setting.placement is not None:
        of_head = scored.get_output_embeddings(), logit_map(scored)
        readings = ReferenceReadings(backbone(scored), *of_head, setting.mask_sources, config.masks)
    units, head = _units(model, setting.element_size, packed)
    others = _others(model, (*units, head), setting.element_size, packed)
    reference: tuple[Unit, ...] = ()
    reference_head = Unit()
    if setting.reference is not None:
        reference, reference_head = _units(scored, setting.element_size, frozenset(), trained=False)
    own_engine = setting.reference is not None and setting.placement != "cached"
    moves = setting.reference is not None and setting.needs.divergence is not None
    # A head that is lent and is the reference's embedding is counted there.
    lent = lends_head(setting.placement, setting.stage)
    copied = moves and not (lent and {*reference_head.weights} <= {*unique(reference)})
    return Census(
        policy=units,
        masks=_mask_unit(setting, readings),
        heads=Unit((*head.weights, *(_as_copy(w) for w in reference_head.weights if copied))),
        others=others,
        reference=(*reference, *([] if moves else [reference_head])) if own_engine else (),
        oracles={role: _oracle_units(setting, model) for role, model in setting.oracles.items()},
        frozen_adapter=_frozen_adapter(setting, (*units, head)),
        readings=Readings(readings.width, readings.hidden_layers, len(readings.site_types)) if readings else Readings(),
    )


def _units(
    model: PreTrainedModel, element_size: int, packed: frozenset[str], *, trained: bool = True
) -> tuple[tuple[Unit, ...], Unit]:
    """The body's modules, each before those in it, and the head."""
    base, head = backbone(model), model.get_output_embeddings()
    known = {id(p): name for name, p in model.named_parameters()}

    def weight(parameter: nn.Parameter) -> Weight:
        name = known[id(parameter)]
        role: Role = "adapter" if ".lora_" in name or ".modules_to_save." in name else "model"
        found = _weight(name, parameter, element_size, packed, role)
        return found if trained else dataclasses.replace(found, trained=False)

    blocks = _blocks(base)
    units = [
        Unit(tuple(weight(p) for p in module.parameters(recurse=False)), name.count("."), id(module) in blocks)
        for name, module in base.named_modules(prefix="base")
        if not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterDict)
    ]
    return tuple(units), Unit(tuple(weight(p) for p in head.parameters()))


def _weight(name: str, parameter: nn.Parameter, element_size: int, packed: frozenset[str], role: Role) -> Weight:
    bits_packed = name.replace(".base_layer", "") in packed
    return Weight(
        name=name,
        numel=parameter.numel(),
        stored=parameter.numel() // (2 * element_size) if bits_packed else parameter.numel(),
        element_size=element_size,
        trained=parameter.requires_grad,
        matrix=parameter.dim() > 1,
        role=role,
        constants=quantisation_constants(parameter.numel()) if bits_packed else 0,
    )


def _others(model: PreTrainedModel, called: Iterable[Unit], element_size: int, packed: frozenset[str]) -> Unit:
    """What of a policy is in none of the modules that are called."""
    known = {weight.name for weight in unique(called)}
    return Unit(
        tuple(
            _weight(name, parameter, element_size, packed, "other part")
            for name, parameter in model.named_parameters()
            if name not in known
        )
    )


def quantisation_constants(numel: int) -> int:
    """Bytes of NF4's doubly quantised scales and tables of a matrix."""
    scales = -(-numel // BLOCK)
    return scales + 4 * -(-scales // SECOND_BLOCK) + TABLES


def _blocks(base: PreTrainedModel) -> set[int]:
    """The decoder's blocks; none where they cannot be told from other modules."""
    try:
        return set(map(id, decoder_blocks(base)))
    except UserError:
        return set()


def _mask_unit(setting: Setting, readings: ReferenceReadings | None) -> Unit | None:
    if "learned" not in setting.mask_sources or readings is None:
        return None
    with torch.device("meta"):
        heads = MaskHeads(readings.layers, readings.width, setting.config.masks)
    return Unit(
        tuple(
            Weight(f"masker.{name}", p.numel(), p.numel(), setting.element_size, True, p.dim() > 1, "masks")
            for name, p in heads.named_parameters()
        )
    )


def _as_copy(weight: Weight) -> Weight:
    return Weight(
        f"reference {weight.name}", weight.numel, weight.numel, weight.element_size, False, weight.matrix,
        "reference head",
    )  # fmt: skip


def _oracle_units(setting: Setting, oracle: PretrainedConfig) -> tuple[Unit, ...]:
    model = _empty(setting, oracle)
    units, head = _units(model, setting.element_size, frozenset(), trained=False)
    return (*units, head)


def _frozen_adapter(setting: Setting, units: tuple[Unit, ...]) -> int:
    """The reference's adapter, taken to be as large as the policy's."""
    if setting.config.reference.adapter_path is None or setting.placement != "adapter":
        return 0
    return sum(weight.numel for weight in unique(units) if weight.role == "adapter")


def _empty(setting: Setting, model: PretrainedConfig) -> PreTrainedModel:
    config = setting.config
    made = empty_model(
        model, setting.dtype, config.data.settled_layout, trust_remote_code=config.model.trust_remote_code
    )
    logit_map(made)  # refuses what a run would refuse
    return made
