"""tokens.jsonl: what the masks did to single tokens of a few responses, for the heat maps of the report."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import TokenizedPair, TokenMasks, TokenStats
from sparsepo_dist.data.batching.pack import pack, trained_tokens
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.training.trainer import Trainer

log = logging.getLogger(__name__)

DECIMALS = 6


@torch.no_grad()
def write_token_table(
    trainer: Trainer, pairs: Sequence[TokenizedPair], tokenizer: PreTrainedTokenizerBase, config: DataConfig,
    beta: float | None, path: Path,
) -> None:  # fmt: skip
    """One row per response of `pairs`, with columns over the tokens that are trained on: text, reward (beta m_u rho),
    KL and log-ratio in nats, both masks.

    All ranks call it; rank 0 writes. The model is saved by then: a disk without room for the table is only warned of.
    """
    trainer.policy.train(False)
    device = trainer.train_batches.device
    rows = []
    for number, pair in enumerate(pairs):
        batch = trainer.train_batches.shared(pack([pair], [1.0], config.settled_layout, device))
        stats, masks = trainer.statistics(batch, trainer.score(batch))
        chosen, rejected = (pair.chosen_ids, pair.chosen_trained), (pair.rejected_ids, pair.rejected_trained)
        for branch, (name, (ids, trained)) in enumerate((("chosen", chosen), ("rejected", rejected))):
            if not ids or stats.reference_logp is None or beta is None:
                continue
            rows.append(
                {
                    "pair": number,
                    "branch": name,
                    "prompt": tokenizer.decode(pair.prompt_ids, skip_special_tokens=True),
                    "tokens": [tokenizer.decode([token]) for token in trained_tokens(ids, trained)],
                    **_columns(stats, masks, batch.sequence_id == branch, beta),
                }
            )
    if rank() == 0 and rows:
        try:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        except OSError as error:
            log.warning("the report will show no tokens: %s cannot be written: %s", path, error.strerror)
            with contextlib.suppress(OSError):  # half of it would spoil the report
                path.unlink(missing_ok=True)


def _columns(stats: TokenStats, masks: TokenMasks | None, members: Tensor, beta: float) -> dict[str, list[float]]:
    assert stats.reference_logp is not None
    log_ratio = stats.policy_logp - stats.reference_logp
    ones = torch.ones_like(log_ratio)
    reward_mask, divergence_mask = (ones, ones) if masks is None else (masks.reward, masks.divergence)
    columns = {
        "reward": beta * reward_mask * log_ratio,
        "log_ratio": log_ratio,
        "reward_mask": reward_mask,
        "divergence_mask": divergence_mask,
    }
    if stats.divergence is not None:
        columns["kl"] = stats.divergence.abs()
    return {name: [round(v, DECIMALS) for v in values[members].tolist()] for name, values in columns.items()}
