"""Response-level KL of a model to its reference, by the operation that training measures it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.decoder.logits import own_head
from sparsepo_dist.engines.merging import with_adapter
from sparsepo_dist.errors import UserError
from sparsepo_dist.ops import token_stats
from sparsepo_dist.sampling.responses import Sample


class ReferenceKL:
    """The distance of models from one reference, which is loaded once; all in float32.

    Args:
        model: folder or hub id of the reference.
        adapter: folder of a peft adapter on it.

    Raises:
        UserError: the reference cannot be loaded.
    """

    def __init__(self, model: str | Path, adapter: str | Path | None = None) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._name = str(adapter or model)
        self._reference = self._load(model, adapter, "reference")

    @torch.inference_mode()
    def per_response(
        self, model: str | Path, samples: Sequence[Sample], *, adapter: str | Path | None = None, batch_size: int = 16
    ) -> list[float]:
        """Summed token KL(pi || pi_ref) of each response that `model` sampled, in nats.

        Raises:
            UserError: the model cannot be loaded, or has another vocabulary than the reference.
        """
        models = [self._load(model, adapter, "model"), self._reference]
        heads = [own_head(m) for m in models]
        sizes = [head.weight.shape[0] for head in heads]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"model {adapter or model}: its vocabulary of {sizes[0]} cannot be compared with the {sizes[1]} of the "
                f"reference {self._name}"
            )
        pairs = [TokenizedPair(s.prompt_ids, s.response_ids, ()) for s in samples]
        found: list[float] = []
        for start in tqdm(range(0, len(pairs), batch_size), desc="measuring the KL", unit="batch"):
            chunk = pairs[start : start + batch_size]
            batch = pack(chunk, [1.0] * len(chunk), "padded", self._device)
            policy, other = (hidden_at(backbone(model), batch) for model in models)
            stats = token_stats(policy, heads[0], batch.labels, other, heads[1], divergence="policy")
            assert stats.divergence is not None
            sums = torch.zeros(len(chunk), dtype=torch.float64, device=self._device)
            sums.index_add_(0, batch.sequence_id // 2, stats.divergence.double())
            found += sums.tolist()
        return found

    def _load(self, model: str | Path, adapter: str | Path | None, field: str) -> PreTrainedModel:
        path = str(model)
        loaded = load_model(
            path, load_config(path, field=field), dtype=torch.float32, layout="padded", zero3=None
        )  # fmt: skip
        if adapter is not None:
            loaded = with_adapter(loaded, Path(adapter), path).merge_and_unload()
        return loaded.to(self._device).eval()
