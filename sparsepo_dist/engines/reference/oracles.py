"""Oracles: frozen models besides the reference, of which masks want the log-probabilities of response tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsepo_dist.contracts import ORACLE_LOGPS, OracleRole, PackedBatch, ReferenceOutputs
from sparsepo_dist.data.batching.prefix import prefixed, with_prefix
from sparsepo_dist.engines.config import named
from sparsepo_dist.engines.reference.cached import Reference
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.engines.sequence.rows import OwnRows


@dataclass(frozen=True)
class Prefix:
    """What an oracle reads before each prompt, behind its BOS."""

    ids: tuple[int, ...] = ()
    bos: int | None = None
    """The tokenizer's BOS."""

    def before(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """A prompt as the oracle reads it."""
        return tuple(prefixed(prompt, self.ids, self.bos))


@dataclass(frozen=True)
class Oracle:
    """A frozen model, and what it is told."""

    engine: ReferenceEngine
    prefix: Prefix

    def score(self, batch: PackedBatch) -> Tensor:
        """[N]: log-probabilities of a batch's response tokens, in nats. Every rank must call this."""
        read = with_prefix(batch, self.prefix.ids, self.prefix.bos) if self.prefix.ids else batch
        logps = self.engine.score(read).logps
        assert logps is not None
        # Behind a prefix other response tokens may lie on this rank.
        return logps if read is batch else OwnRows.of(batch).pick(OwnRows.of(read).whole(logps))


Oracles = Mapping[OracleRole, Oracle]


def scored(
    batch: PackedBatch, reference: Reference | None, oracles: Oracles, at: Callable[[str], None]
) -> ReferenceOutputs | None:
    """What frozen models of their own say of a batch; None if there are none. Every rank must call this.

    Args:
        at: is told what is done.
    """
    outputs = None
    if reference is not None:
        at("scoring with the reference")
        outputs = reference.score(batch)
    for role, oracle in oracles.items():
        at(f"scoring with the {named(role)}")
        outputs = dataclasses.replace(outputs or ReferenceOutputs(), **{ORACLE_LOGPS[role]: oracle.score(batch)})
    return outputs
