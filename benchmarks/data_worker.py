"""One thing that is done with data, in a process of its own, for benchmarks/data.py.

python -m benchmarks.data_worker '{"what": "ours", "source": "rows.jsonl", "tokenizer": FOLDER, "cache": FOLDER, ...}'
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sparsepo_dist.contracts import TokenizedRow
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.columns import Columns
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.store.pairs import TokenizedPairs
from sparsepo_dist.data.store.writer import ColumnsWriter, Piece
from sparsepo_dist.training.batches import MicroBatches, sample_order

PAIRS_PER_STEP = 4
STEPS = 20


@dataclass(frozen=True)
class Job:
    """What is measured, and on what."""

    what: str
    """ours, trl, or step."""
    source: str
    """Rows as Anthropic HH has them."""
    tokenizer: str
    """Folder."""
    cache: str
    """Ours: folder of token ids."""
    processes: int = 1
    pairs: int = 0
    """step: the source's pairs, again and again, make so many."""


@dataclass
class Found:
    """What a process measured."""

    seconds: float
    cpu_seconds: float
    """Of this process and of those that it started."""
    pairs: int
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes by which this process's memory grew, by kind."""
    step: dict[str, float] = field(default_factory=dict)
    """Seconds of the parts of a step."""


def ours(job: Job) -> Found:
    """Pairs from a source: made where the cache has none, or found there."""
    config = DataConfig(cache=job.cache, workers=job.processes, on_bad_row="skip")
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    return _measured(lambda: len(load_tokenized(job.source, tokenizer, config)))


def trl(job: Job) -> Found:
    """The same rows by TRL's DPOTrainer: read by `datasets`, prompts taken off, EOS added, tokenised."""
    from datasets import Dataset, load_dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, report_to=[], bf16=False, max_length=2048,
        dataset_num_proc=job.processes,
    )  # fmt: skip
    models = [_model(len(tokenizer), 16, 1) for _ in range(2)]
    words = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])
    trainer = DPOTrainer(*models, args=config, train_dataset=words, processing_class=tokenizer)

    def prepare() -> int:
        rows = load_dataset("json", data_files=job.source, split="train")
        return len(trainer._prepare_dataset(rows, tokenizer, config, "train"))

    return _measured(prepare)


def step(job: Job) -> Found:
    """Many pairs open: by what a rank's memory grows, and what finding, dealing out and packing a step's takes."""
    folder = Path(job.cache) / f"repeated-{job.pairs}"
    if not folder.is_dir():
        _repeat(job, folder)
    before = _memory()
    started, cpu = time.perf_counter(), time.process_time()
    pairs = TokenizedPairs.of(Columns.mapped(folder, 0))
    batches, order = MicroBatches(pairs, DataConfig(layout="prefix_shared"), torch.device("cpu")), None
    parts: dict[str, list[float]] = {"order": [], "balance": [], "packing": []}
    order = sample_order(pairs, PAIRS_PER_STEP, 0)
    permuted = time.perf_counter()
    order.step(0)
    permuted = time.perf_counter() - permuted
    for number in range(1, STEPS):
        marks = [time.perf_counter()]
        indices = order.step(number)
        marks.append(time.perf_counter())
        dealt = batches.of(indices)
        marks.append(time.perf_counter())
        list(dealt.groups(1))
        marks.append(time.perf_counter())
        for name, start, stop in zip(parts, marks[:-1], marks[1:], strict=True):
            parts[name].append(stop - start)
    sum(int(lengths.sum()) for lengths in pairs.lengths())
    memory = {name: size - before[name] for name, size in _memory().items()}
    seconds = {name: statistics.median(values) for name, values in parts.items()}
    seconds["order"] += permuted / order.steps_per_epoch
    seconds["small step"] = _small_step(pairs, order.step(1))
    return Found(time.perf_counter() - started, time.process_time() - cpu, len(pairs), memory, seconds)


def _repeat(job: Job, folder: Path) -> None:
    """The pairs of a source, as often as makes so many."""
    config = DataConfig(cache=job.cache, workers=job.processes, on_bad_row="skip")
    given = load_tokenized(job.source, AutoTokenizer.from_pretrained(job.tokenizer), config)
    rows = [
        TokenizedRow(pair.prompt_ids, (pair.chosen_ids,), (pair.rejected_ids,), place=pair.place)
        for pair in given[: job.pairs]
    ]
    unfinished = folder.with_name(f".{folder.name}")
    unfinished.mkdir()
    writer, piece = ColumnsWriter(unfinished), Piece.of(rows)
    while writer.pairs + len(rows) <= job.pairs:
        writer.add(piece)
    writer.add(Piece.of(rows[: job.pairs - writer.pairs]))
    writer.finish()
    unfinished.rename(folder)


def _small_step(pairs: TokenizedPairs, indices: list[int]) -> float:
    """Forward and backward of a decoder of Pythia-70M's size over the responses of a step, by transformers itself."""
    model = _model(50_304, 512, 6)
    sequences = [(*pairs[i].prompt_ids, *ids) for i in indices for ids in (pairs[i].chosen_ids, pairs[i].rejected_ids)]
    longest = max(map(len, sequences))
    ids = torch.tensor([[*s, *[0] * (longest - len(s))] for s in sequences])
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _model(vocabulary: int, width: int, layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=4096,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _measured(run: Callable[[], int]) -> Found:
    before, cpu, started = _memory(), _cpu(), time.perf_counter()
    pairs = run()
    seconds = time.perf_counter() - started
    memory = {name: size - before[name] for name, size in _memory().items()}
    return Found(seconds, _cpu() - cpu, pairs, memory)


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _memory() -> dict[str, int]:
    """Bytes of this process that are no file's, and mapped pages of files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return {"anonymous": sizes["RssAnon"], "mapped files": sizes["RssFile"]}


def main() -> None:
    """Measure and print."""
    job = Job(**json.loads(sys.argv[1]))
    found = {"ours": ours, "trl": trl, "step": step}[job.what](job)
    print("\n" + json.dumps(dataclasses.asdict(found)))


if __name__ == "__main__":
    main()
