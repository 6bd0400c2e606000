"""What the masks room is told."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import Literal

from sparsepo_dist.errors import UserError

MaskKind = Literal[
    "learned", "activation", "random", "ones", "oracle", "guided", "contrast", "decay", "tail", "sampled"
]
"""What masks are made from: a source."""
SITE_TYPES = ("mlp", "attention", "residual", "logits")
RELEASED_DROPOUT = 0.01


@dataclass
class MaskConfig:
    """Token masks: sparsepo's (learned), mapo's (activations), those of oracles (sepo, tgdpo, tis_dpo), and what
    `kind` names."""

    kind: Literal["auto"] | MaskKind | list[MaskKind] = "auto"
    """What masks are made from; `auto` is the objective's own kind. Any objective takes any kind, and of several,
    [learned, decay], the product. `decay`, `tail` and `sampled` weigh tokens by where they stand, as in d2po, ld_dpo
    and sampo; `random` (uniform in [0, 1)) and `ones` are for comparison."""
    on: Literal["both", "reward", "divergence"] = "both"
    """Learned, random: which of the two masks there is; the other is 1 everywhere."""
    sharing: Literal["common", "independent"] = "independent"
    """Learned, random: `common` uses one mask for reward and divergence, `independent` has two."""
    layers: Literal["all", "last"] = "all"
    """Learned: hidden states of which layers of the reference; the embedding output is not a layer."""
    linears: Literal[1, 2] = 1
    """Learned: linear maps per layer. With 2, a ReLU and a width of 200 lie between them."""
    layer_norm: bool | None = None
    """Learned: one LayerNorm shared by all layers before the per-layer linear. Where not given, only with init
    `released`."""
    dropout: float | None = None
    """Learned: dropout after each ReLU. Where not given, 0, and 0.01 with init `released`."""
    init: Literal["torch", "released", "calibrated"] = "torch"
    """Learned: how heads start. `torch`: as its linears do. `released`: as the released implementation's, N(0, 0.02),
    biases 0, and what else its heads are: see docs/objectives.md; what is given of layer_norm and dropout wins.
    `calibrated`: as `torch`, then shifted and scaled to `initial_sparsity` and `initial_mean` by the first global
    batch, or the first ones of 64 pairs."""
    initial_sparsity: float | tuple[float, float] = 0.8
    """Calibrated: share of those batches' response tokens whose mask is 0; one for both masks, or [reward,
    divergence]. In the paper reward masks start near 0.8."""
    initial_mean: float = 1.0
    """Calibrated: mean over those tokens; at 1, beta is as strong as in DPO and TDPO."""
    bounded: bool = False
    """Learned: weights are kept within [0, 1], as the paper defines masks (Eq. 3): those above become 1, without
    gradient."""
    floor: float = 0.0
    """Learned: added to the mask, so that no weight is below it; the paper's epsilon. Below 1."""
    binary: Literal["none", "released", "straight_through"] = "none"
    """Learned: masks of 0 and 1, the sign of the final ReLU. As `released` no gradient passes it, so the masks stay as
    they were initialised; `straight_through` takes the sign's derivative as 1."""
    learning_rate: float | None = None
    """Learned: learning rate of the mask parameters; the policy's where not given."""
    weight_decay: float = 0.01
    """Learned: weight decay of the mask parameters."""
    random: Literal["fixed", "fresh"] = "fixed"
    """Random: `fixed` gives a token the same number whenever it is seen, `fresh` another one in every step."""
    sites: Literal["paper", "released"] = "paper"
    """Activation: what is read. `paper`: outputs of attention, feed-forward and block in every layer. `released`: the
    released implementation's longer list (docs/objectives.md); its masks are this with normalisation `rescale`."""
    site_types: list[str] | None = None
    """Activation: only these types of site, of mlp, attention, residual and (released only) logits."""
    site_patterns: dict[str, str] = field(default_factory=dict)
    """Activation: type to regular expression, for decoders whose parts are not recognised. Sites of that type are then
    the outputs of the modules whose whole name in the decoder it matches (`layers\\.\\d+\\.mlp`)."""
    normalisation: Literal["standardise", "rescale", "sigmoid", "layernorm"] = "standardise"
    """Activation: `standardise` averages standardised activations (the paper; about half of the weights are negative,
    see `clip`). The others average within site types first: `rescale` maps each to [0, 1] over its response (released),
    `sigmoid` takes the sigmoid of every feature (released), `layernorm` is a LayerNorm over the response's tokens."""
    clip: bool = False
    """Activation: negative weights of a standardised mask become 0. Unclipped, as in the paper's text, a token with a
    negative weight counts the other way round: its likelihood is pushed down in the chosen response and up in the
    rejected one."""
    selected_share: float = 0.3
    """Oracle: share of each response's tokens that is selected."""
    guidance: float = 0.05
    """Guided: what a nat of the oracle's log-ratio to the reference adds to the weight 1 of a chosen response's token,
    and takes from a rejected one's: TGDPO's alpha times beta, in its authors' example 0.5 x 0.1."""
    contrast: Literal["ranks", "exponential"] = "ranks"
    """Contrast: how tokens weigh by the log-ratio of the two oracles. `exponential`: e^(strength x ratio), the ratio
    kept within `contrast_bounds`, its sign turned in the rejected response; `ranks`: from 0.7 to 1.3 by their rank in
    the response."""
    contrast_strength: float = 1.0
    """Contrast, exponential: mu, the weight of the log-ratio in the exponent."""
    contrast_bounds: tuple[float, float] = (-0.5, 1.5)
    """Contrast, exponential: least and greatest log-ratio of the oracles, in nats."""
    decay_factor: float = 0.98
    """Decay: what a token weighs of the one before it; a response's first weighs 1."""
    tail_weight: float = 0.5
    """Tail: weight of the tokens beyond the length of the pair's shorter response."""

    def __post_init__(self) -> None:
        if self.layer_norm is None:
            self.layer_norm = self.init == "released"
        if self.dropout is None:
            self.dropout = RELEASED_DROPOUT if self.init == "released" else 0.0

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"masks.dropout: {self.dropout} must be in [0, 1)")
        for name, most in (("learning_rate", 1), ("weight_decay", sys.float_info.max)):
            value = getattr(self, name) or 0
            if not 0 <= value <= most:
                raise UserError(f"masks.{name}: {value} must be a number from 0 to {most}")
        if not 0 < self.selected_share <= 1:
            raise UserError(f"masks.selected_share: {self.selected_share} must be in (0, 1]")
        self._validate_oracles()
        if not 0 < self.decay_factor <= 1:
            raise UserError(f"masks.decay_factor: {self.decay_factor} must be in (0, 1]")
        if not 0 <= self.tail_weight <= 1:
            raise UserError(f"masks.tail_weight: {self.tail_weight} must be in [0, 1]")
        if isinstance(self.kind, list) and (not self.kind or len(set(self.kind)) < len(self.kind)):
            raise UserError(f"masks.kind: {self.kind} must be some kinds, each once")
        if self.sharing == "common" and self.on != "both":
            raise UserError(
                f"masks.sharing: a common mask is for both, but masks.on is {self.on}; leave out one of them"
            )
        if self.clip and self.normalisation in ("rescale", "sigmoid"):
            raise UserError(
                f"masks.clip: with masks.normalisation {self.normalisation} no weight is negative; leave out clip"
            )
        self._validate_values()
        self._validate_start()
        self._validate_sites()

    def shares(self) -> tuple[float, float]:
        """The initial sparsity of the reward mask and of the divergence mask."""
        given = self.initial_sparsity
        return (given[0], given[1]) if isinstance(given, list | tuple) else (given, given)

    def _validate_oracles(self) -> None:
        for name in ("guidance", "contrast_strength"):
            value = getattr(self, name)
            if not 0 <= value < sys.float_info.max:
                raise UserError(f"masks.{name}: {value} must be a number of at least 0")
        low, high = self.contrast_bounds
        if not -sys.float_info.max < low < high < sys.float_info.max:
            raise UserError(f"masks.contrast_bounds: {low} and {high} must be two numbers, the lower one first")

    def _validate_values(self) -> None:
        if not 0 <= self.floor < 1:
            raise UserError(f"masks.floor: {self.floor} must be in [0, 1)")
        for name in ("floor", "bounded"):
            if getattr(self, name) and self.binary != "none":
                raise UserError(f"masks.{name}: binary masks are 0 and 1; leave out one of them")

    def _validate_start(self) -> None:
        shares = self.shares()
        if not all(0 <= share < 1 for share in shares):
            raise UserError(f"masks.initial_sparsity: {self.initial_sparsity} must be in [0, 1)")
        if self.sharing == "common" and shares[0] != shares[1]:
            raise UserError(
                f"masks.initial_sparsity: {self.initial_sparsity} are two shares, but a common mask has one"
            )
        if not self.floor < self.initial_mean < sys.float_info.max:
            raise UserError(
                f"masks.initial_mean: {self.initial_mean} must be above masks.floor, {self.floor}, and finite"
            )
        most = 1 - max(shares) * (1 - self.floor)
        if self.init == "calibrated" and self.bounded and self.initial_mean >= most:
            raise UserError(
                f"masks.initial_mean: {self.initial_mean} cannot be: weights of at most 1 of which {max(shares):g} are "
                f"{self.floor:g} have a mean below {most:g}; give less"
            )

    @property
    def read_types(self) -> tuple[str, ...]:
        """Types of the sites that activation masks read."""
        if self.site_types is not None:
            return tuple(self.site_types)
        return SITE_TYPES if self.sites == "released" else SITE_TYPES[:3]

    def _validate_sites(self) -> None:
        known = SITE_TYPES if self.sites == "released" else SITE_TYPES[:3]
        if self.site_types is not None:
            wrong = [name for name in self.site_types if name not in known]
            if wrong or not self.site_types or len(set(self.site_types)) < len(self.site_types):
                raise UserError(
                    f"masks.site_types: {self.site_types} must be some of {', '.join(known)}, each once "
                    f"(masks.sites is {self.sites})"
                )
        if self.normalisation == "sigmoid" and "logits" in self.read_types:
            raise UserError(
                "masks.site_types: with masks.normalisation sigmoid the mean over the vocabulary would need all "
                "logits; leave logits out (--masks.site_types '[mlp, attention, residual]')"
            )
        for name, pattern in self.site_patterns.items():
            if name == "logits" or name not in self.read_types:
                raise UserError(
                    f"masks.site_patterns: {name!r} is none of the types that are read off modules here: "
                    f"{', '.join(kind for kind in self.read_types if kind != 'logits') or 'there are none'}"
                )
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"masks.site_patterns: {pattern!r} is no regular expression: {error}") from None
