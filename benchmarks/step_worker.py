"""One measured training process, ours or TRL's: what it was told on its command line, JSON on its last line.

    python -m benchmarks.step_worker '{"system": "trl", "model": FOLDER, "pairs": FILE, "dtype": "float32", ...}'

Both get the same token ids, in file order. Under torchrun ours takes part as one of several ranks; TRL runs alone.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.measure import forget_peak, peak_bytes, seconds_now, used_bytes
from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenizedPair, TokenizedRow
from sparsepo_dist.data.batching.order import SampleOrder
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.data.store.writer import in_memory
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.masks import MaskPair

if TYPE_CHECKING:
    from sparsepo_dist.runs.inputs import Inputs
    from sparsepo_dist.training.trainer import Trainer


@dataclass
class Work:
    """What is measured."""

    system: str
    """ours or trl."""
    model: str
    """Model folder."""
    pairs: str
    """Preference pairs."""
    dtype: str = "float32"
    steps: int = 4
    """Of which the first is warm-up."""
    pairs_per_step: int = 4
    max_length: int = 512
    threads: int = 2
    lengths: list[int] | None = None
    """Tokens of prompt and of each response; pairs of random tokens are then made, and `pairs` is only read past."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Ours: more fields of the run's configuration."""
    zero_stage: int = 0
    """Ours."""
    zero: dict[str, Any] = field(default_factory=dict)
    """Ours: more settings of zero_optimization."""
    sparsity: float | None = None
    """Ours: share of tokens whose masks are both 0, in place of the masks that the objective makes."""
    compiled: bool = False
    """Ours: the policy's layers by torch.compile."""

    @property
    def pairs_of_all_steps(self) -> int:
        """How many pairs are needed."""
        return self.steps * self.pairs_per_step

    def data(self) -> DataConfig:
        """How pairs are cut, for both systems."""
        prompt = self.max_length * 3 // 4
        return DataConfig(train=self.pairs, on_bad_row="skip", max_length=self.max_length, max_prompt_length=prompt)

    def data_fields(self) -> dict[str, Any]:
        """The same as fields of a run's configuration."""
        names = ("train", "on_bad_row", "max_length", "max_prompt_length")
        return {f"data.{name}": getattr(self.data(), name) for name in names}


@dataclass
class Measured:
    """What one process found."""

    seconds: list[float]
    """Of every step after the first."""
    losses: list[float]
    """Of every step."""
    peak_bytes: int
    """Most memory in use in the steps after the first, without what was there before any model."""
    state_bytes: int
    """Weights, gradients, optimizer state and reference, as the system keeps them."""
    tokens: list[list[list[int]]]
    """Per step after the first, per pair: tokens of prompt, chosen and rejected response."""


def read_pairs(work: Work) -> list[TokenizedPair]:
    """The pairs of all steps, in file order."""
    if work.lengths is not None:
        return random_pairs(work, work.lengths)
    return load_tokenized(work.pairs, load_tokenizer(work.model), work.data())[: work.pairs_of_all_steps]


def random_pairs(work: Work, lengths: Sequence[int]) -> list[TokenizedPair]:
    """As many pairs of random tokens, of `Work.lengths`."""
    dice, (prompt, response) = random.Random(0), lengths

    def ids(length: int) -> tuple[int, ...]:
        return tuple(dice.randrange(1000, 20000) for _ in range(length))

    return [TokenizedPair(ids(prompt), ids(response), ids(response)) for _ in range(work.pairs_of_all_steps)]


def shapes(pairs: list[TokenizedPair], work: Work) -> list[list[list[int]]]:
    """Lengths of the pairs of every step after the first."""
    each = [[len(p.prompt_ids), len(p.chosen_ids), len(p.rejected_ids)] for p in pairs]
    return [each[i : i + work.pairs_per_step] for i in range(work.pairs_per_step, len(each), work.pairs_per_step)]


def time_steps(step: Callable[[int], float], work: Work) -> tuple[list[float], list[float], int]:
    """Seconds and losses of steps, and the memory peak of those after the first."""
    seconds, losses = [], []
    for number in range(work.steps):
        if number == 1:
            gc.collect()
            forget_peak()
        started = seconds_now()
        losses.append(step(number))
        seconds.append(seconds_now() - started)
    return seconds[1:], losses, peak_bytes()


def our_arguments(work: Work, folder: Path) -> list[str]:
    """The command line of our own run; its ds_config is written into a folder."""
    ds_config = folder / "ds.json"
    zero: dict[str, Any] = {"stage": work.zero_stage, **work.zero}
    optimizer = {"type": "AdamW", "params": {"torch_adam": True, "fused": True}}
    ds_config.write_text(json.dumps({"bf16": {"enabled": "auto"}, "zero_optimization": zero, "optimizer": optimizer}))
    fields = {
        "model.path": work.model, "ds_config": ds_config, "training.learning_rate": 1e-6,
        "training.pairs_per_step": work.pairs_per_step, "training.max_steps": work.steps,
        "training.schedule": "constant", "training.warmup_ratio": 0.0,
        "training.precision": {"float32": "fp32", "bfloat16": "bf16"}[work.dtype],
        **work.data_fields(), **work.fields,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in fields.items()]


def our_inputs(work: Work, folder: Path) -> Inputs:
    """What our own trainer is built from, after this process has joined the others."""
    from sparsepo_dist.engines.deepspeed import distributed
    from sparsepo_dist.engines.deepspeed.environment import prepare_environment
    from sparsepo_dist.runs.inputs import load_inputs
    from sparsepo_dist.runs.parsing import parse_train

    prepare_environment()
    inputs = load_inputs(parse_train(our_arguments(work, folder)))
    distributed.initialise()
    if work.lengths is None:
        return dataclasses.replace(inputs, train=inputs.train.taken(range(work.pairs_of_all_steps)))
    rows = [TokenizedRow(p.prompt_ids, (p.chosen_ids,), (p.rejected_ids,)) for p in random_pairs(work, work.lengths)]
    return dataclasses.replace(inputs, train=TokenizedPairs.of(in_memory(rows)))


def our_trainer(work: Work, inputs: Inputs, folder: Path) -> Trainer:
    """Our own trainer, which takes pairs in file order."""
    from sparsepo_dist.engines.decoder.backbone import backbone
    from sparsepo_dist.runs.assembly import build_trainer

    trainer = build_trainer(inputs, folder)
    if work.compiled:
        for layer in backbone(trainer.policy.module.model).layers:
            layer.compile(dynamic=True)
    trainer.order = _InOrder(len(inputs.train), work.pairs_per_step, 0)
    return trainer


def run_ours(work: Work) -> Measured:
    """Our own training step, as the trainer runs it."""
    folder = Path(tempfile.mkdtemp())
    inputs = our_inputs(work, folder)
    before = used_bytes()
    trainer = our_trainer(work, inputs, folder)
    if work.sparsity is not None:
        _fix_masks(trainer.policy.module.masker, work.sparsity)
    seconds, losses, peak = time_steps(lambda number: trainer.train_step(number).metrics["loss"], work)
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.policy.module.model.parameters())
    width = 2 if work.dtype == "bfloat16" else 4
    # fp32 master weights and both moments; bf16 adds its own weights to them. Gradients are in the model's dtype.
    states = parameters * ((12 if width == 4 else 14) + width)
    if trainer.reference is not None:
        states += parameters * width
    return Measured(seconds, losses, peak - before, states, shapes(list(inputs.train), work))


def run_trl(work: Work) -> Measured:
    """TRL's DPOTrainer: sigmoid DPO, full fine-tuning, a frozen reference beside it, as bench/trl_dpo_step.py."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    pairs = read_pairs(work)
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=not torch.cuda.is_available(), max_steps=work.steps, report_to=[],
        per_device_train_batch_size=work.pairs_per_step, beta=0.1, max_length=work.max_length, learning_rate=1e-6,
        logging_steps=1, save_strategy="no", seed=0, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        dataloader_drop_last=True,
    )  # fmt: skip
    before = used_bytes()
    dtype = getattr(torch, work.dtype)
    policy, reference = (AutoModelForCausalLM.from_pretrained(work.model, dtype=dtype) for _ in range(2))
    words = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])
    trainer = DPOTrainer(policy, reference, args=config, train_dataset=words, processing_class=tokenizer)
    # What it makes of text, made by us: both systems see the same tokens.
    trainer.train_dataset = Dataset.from_list(
        [{f"{part}_ids": list(getattr(p, f"{part}_ids")) for part in ("prompt", "chosen", "rejected")} for p in pairs]
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    marks: list[float] = []
    peaks: list[int] = []
    inner_step = trainer.training_step

    def begin(*arguments: Any, **keywords: Any) -> Any:
        if len(marks) == 1:
            gc.collect()
            forget_peak()
        marks.append(seconds_now())
        return inner_step(*arguments, **keywords)

    class EndOfStep(TrainerCallback):
        """The optimizer's part belongs to a step."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(seconds_now() - marks[-1])
            peaks.append(peak_bytes())

    seconds: list[float] = []
    trainer.add_callback(EndOfStep())
    trainer.training_step = begin
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    parameters = sum(p.numel() for p in policy.parameters())
    width = policy.dtype.itemsize
    return Measured(seconds[1:], losses, max(peaks[1:]) - before, parameters * width * 5, shapes(pairs, work))


class _InOrder(SampleOrder):
    """Pairs as they stand in the file."""

    def step(self, step: int) -> list[int]:
        """Indices of the pairs of a step."""
        return list(range(step * self.pairs_per_step, (step + 1) * self.pairs_per_step))


def _fix_masks(masker: Any, sparsity: float) -> None:
    """Masks of 0 and 1, 0 for a share of the tokens."""

    def forward(_: ReferenceOutputs, batch: PackedBatch, step: int, *others: Any) -> MaskPair:
        generator = torch.Generator().manual_seed(step)
        mask = (torch.rand(len(batch.labels), generator=generator) >= sparsity).float().to(batch.labels.device)
        return MaskPair(mask, mask)

    masker.forward = forward


def main() -> None:
    """Measure and print."""
    work = Work(**json.loads(sys.argv[1]))
    torch.manual_seed(0)
    torch.set_num_threads(work.threads)
    found = run_trl(work) if work.system == "trl" else run_ours(work)
    if os.environ.get("RANK", "0") == "0":
        print("\n" + json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main()
