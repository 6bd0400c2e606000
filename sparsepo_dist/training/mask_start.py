"""Before the first update: learned masks are calibrated, if asked for, and refused where they are dead.

Both look at the first global batch of the training pairs: what each head says of every response token is gathered from
all ranks, a few numbers a token, so that all ranks, in any layout and with any budget, find the same. A quantile over
few responses says little of others, since tokens of one response are alike: of small batches calibration takes several.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from sparsepo_dist.contracts import PackedBatch
from sparsepo_dist.data.batching.order import SampleOrder
from sparsepo_dist.engines.deepspeed.distributed import of_all_ranks, of_rank_0, rank
from sparsepo_dist.engines.sequence.rows import OwnRows
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import LearnedMask, MaskConfig
from sparsepo_dist.masks.calibration import Target, apply_settings, layer_settings, output_settings
from sparsepo_dist.training.trainer import Trainer

log = logging.getLogger(__name__)

LEAST_PAIRS = 64
"""That heads are calibrated on, where an epoch has so many. docs/objectives.md has what it was chosen by."""
TITLES = {"reward": "reward mask", "divergence": "divergence mask", "common": "common mask"}


def start_masks(trainer: Trainer, config: MaskConfig) -> None:
    """Give learned masks their start, in a run that starts. Every rank must call this, before the first step.

    Nothing is drawn, and nothing but the heads is changed.

    Raises:
        UserError: a mask is 0 on every token, on all ranks.
    """
    order = trainer.order
    steps = calibration_steps(order) if config.init == "calibrated" else 1
    with trainer.policy.whole_masks() as heads:
        names = list(heads)
    if not names:
        return
    trainer.progress.at("looking at the masks before the first step")
    trainer.policy.train(False)
    if config.init == "calibrated":
        if rank() == 0 and order.pairs < LEAST_PAIRS:
            log.warning(
                "masks are calibrated on all %d pairs of the training data: of fewer than %d, the share of tokens at 0 "
                "on other pairs depends on the seed (docs/objectives.md says how much)", order.pairs, LEAST_PAIRS,
            )  # fmt: skip
        _calibrate(trainer, config, steps)
    masks = _over_first_batches(trainer, steps, lambda head, hidden: head.forward(hidden)[None])
    told = [_described(name, mask[0], config, trainer.config.seed) for name, mask in masks.items()]
    if rank() == 0:
        where = "batch" if steps == 1 else f"{steps} batches"
        log.info("masks over the response tokens of the first global %s: %s", where, "; ".join(told))


def calibration_steps(order: SampleOrder) -> int:
    """How many of the first global batches have LEAST_PAIRS pairs between them; all of an epoch that has fewer."""
    return min(-(-LEAST_PAIRS // order.pairs_per_step), order.steps_per_epoch)


def _calibrate(trainer: Trainer, config: MaskConfig, steps: int) -> None:
    shares = dict(zip(("reward", "divergence"), config.shares(), strict=True))
    targets = {name: Target(shares.get(name, config.shares()[0]), config.initial_mean) for name in TITLES}
    # The layers' parameters are rounded to the run's dtype before what follows them is set by what they then say.
    for settings in (layer_settings, output_settings):
        scores = _over_first_batches(trainer, steps, lambda head, hidden: head.layer_scores(hidden))
        with trainer.policy.whole_masks(change=True) as heads:
            # Rank 0's: another kind of processor may round otherwise.
            found = of_rank_0({name: settings(scores[name], head, targets[name]) for name, head in heads.items()})
            for name, head in heads.items():
                apply_settings(head, found[name])


@torch.no_grad()
def _over_first_batches(trainer: Trainer, steps: int, of: Callable[[LearnedMask, Tensor], Tensor]) -> dict[str, Tensor]:
    """By head: `of` it and hidden states [L, N, D], float32 [rows, N] on the CPU, over the tokens of all ranks."""
    own: dict[str, list[Tensor]] = {}
    batches = trainer.train_batches.of([pair for step in range(steps) for pair in trainer.order.step(step)])
    for group in batches.groups(trainer.micro_batches_per_pass):
        batch = group.joined
        hidden = _hidden(trainer, batch)
        counted = OwnRows.of(batch).pick((batch.pair_weight > 0)[batch.sequence_id // 2])
        with trainer.policy.whole_masks() as heads:
            for name, head in heads.items():
                own.setdefault(name, []).append(of(head, hidden)[:, counted].float().cpu())
    everywhere = of_all_ranks({name: torch.cat(parts, 1) for name, parts in own.items()})
    return {name: torch.cat([part[name] for part in everywhere], 1) for name in own}


def _hidden(trainer: Trainer, batch: PackedBatch) -> Tensor:
    outputs = trainer.score(batch)
    if outputs is None or outputs.layer_hidden is None:
        return trainer.policy.own_hidden(batch)
    return outputs.layer_hidden


def _described(name: str, mask: Tensor, config: MaskConfig, seed: int) -> str:
    """A mask [N] in words.

    Raises:
        UserError: no token gets through it.
    """
    off = mask == config.floor
    if off.all():
        raise UserError(
            f"masks.init: with {config.init} and training.seed {seed} the {TITLES[name]} is {config.floor:g} on all "
            f"{len(mask)} response tokens of the first global batch: it has no gradient, and would stay so for ever. "
            "Take another training.seed, or --masks.init calibrated, which sets the share of tokens at 0"
        )
    return f"{TITLES[name]} {config.floor:g} on {off.float().mean():.3f} of {len(mask)}, mean {mask.mean():.3g}"
