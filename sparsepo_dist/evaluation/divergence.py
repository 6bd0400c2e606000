"""Models held against one reference, token by token, by the operation that training measures them with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenizedPair, TokenStats
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.decoder.logits import logit_map, own_head
from sparsepo_dist.engines.merging import with_adapter
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, MaskSources, ReferenceReadings
from sparsepo_dist.ops import Divergence, token_stats
from sparsepo_dist.sampling.responses import Sample


class Compared(NamedTuple):
    """Some pairs under a model and the reference."""

    batch: PackedBatch
    stats: TokenStats
    reference: ReferenceOutputs
    """With what masks read."""


class ReferenceComparison:
    """One reference, which is loaded once, and what models say beside it; all in float32.

    Args:
        model: folder or hub id of the reference.
        adapter: folder of a peft adapter on it.

    Raises:
        UserError: the reference cannot be loaded.
    """

    def __init__(self, model: str | Path, adapter: str | Path | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._name = str(adapter or model)
        self._reference = self._load(model, adapter, "reference")

    def readings(self, sources: MaskSources, masks: MaskConfig) -> ReferenceReadings:
        """What masks of such sources read off the reference. Raises UserError as `ReferenceReadings`."""
        reference = self._reference
        return ReferenceReadings(
            backbone(reference), reference.get_output_embeddings(), logit_map(reference), sources, masks
        )

    @torch.inference_mode()
    def of(
        self,
        model: str | Path,
        pairs: Sequence[TokenizedPair],
        *,
        adapter: str | Path | None = None,
        divergence: Divergence | None = "policy",
        squares: bool = False,
        readings: ReferenceReadings | None = None,
        batch_size: int = 16,
        description: str = "measuring the KL",
    ) -> Iterator[Compared]:
        """`batch_size` pairs after the other, in order.

        Args:
            squares: whether the sums of the model's squared probabilities are wanted.
            readings: of the reference, which masks are made of; by default none.
            description: of the progress.

        Raises:
            UserError: the model cannot be loaded, or has another vocabulary than the reference.
        """
        policy = self._load(model, adapter, "model")
        heads = own_head(policy), own_head(self._reference)
        ours, theirs = (head.weight.shape[0] for head in heads)
        if ours != theirs:
            raise UserError(
                f"model {adapter or model}: its vocabulary of {ours} cannot be compared with the {theirs} of the "
                f"reference {self._name}"
            )
        readings = readings or self.readings((), MaskConfig())
        for start in tqdm(range(0, len(pairs), batch_size), desc=description, unit="batch"):
            chunk = pairs[start : start + batch_size]
            batch = pack(chunk, [1.0] * len(chunk), "padded", self.device)
            hidden = hidden_at(backbone(policy), batch)
            with readings.collect(batch.predict_index) as collected:
                other = hidden_at(backbone(self._reference), batch)
            stats = token_stats(hidden, heads[0], batch.labels, other, heads[1], divergence=divergence, squares=squares)
            yield Compared(batch, stats, collected.outputs(other, stats.reference_logp))

    def _load(self, model: str | Path, adapter: str | Path | None, field: str) -> PreTrainedModel:
        path = str(model)
        loaded = load_model(
            path, load_config(path, field=field), dtype=torch.float32, layout="padded", zero3=None
        )  # fmt: skip
        if adapter is not None:
            loaded = with_adapter(loaded, Path(adapter), path).merge_and_unload()
        return loaded.to(self.device).eval()


class ReferenceKL(ReferenceComparison):
    """The distance of models from one reference."""

    def per_response(
        self, model: str | Path, samples: Sequence[Sample], *, adapter: str | Path | None = None, batch_size: int = 16
    ) -> list[float]:
        """Summed token KL(pi || pi_ref) of each response that `model` sampled, in nats. Raises UserError as `of`."""
        pairs = [TokenizedPair(s.prompt_ids, s.response_ids, ()) for s in samples]
        found: list[float] = []
        for batch, stats, _ in self.of(model, pairs, adapter=adapter, batch_size=batch_size):
            assert stats.divergence is not None
            sums = torch.zeros(batch.pairs, dtype=torch.float64, device=self.device)
            sums.index_add_(0, batch.sequence_id // 2, stats.divergence.double())
            found += sums.tolist()
        return found
