"""What is trained without a network: a model of a known shape with random weights, and pairs of random words."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

import torch

from benchmarks.gpu_day.checks import Day
from benchmarks.models import byte_tokenizer, pythia_config, save_random_model


def model(day: Day, size: str, dtype: torch.dtype = torch.float32) -> Path:
    """Folder of a model of Pythia's shape, made once; its tokens are bytes. In a rehearsal it is `tiny`, whatever
    `size` says."""
    folder = day.output / f"pythia-{size}-{str(dtype).removeprefix('torch.')}"
    if not (folder / "tokenizer.json").is_file():  # written last
        config = pythia_config("tiny" if day.rehearsed else size)
        save_random_model(config, byte_tokenizer(), folder, dtype=dtype, device=day.device)
        torch.cuda.empty_cache()
    return folder


def pairs(day: Day, count: int) -> Path:
    """File of so many pairs, about as long and as uneven in tokens, which are bytes, as Anthropic HH's: 210 packed ones
    a pair in the mean."""
    file = day.output / f"pairs-{count}.jsonl"
    if not file.is_file():
        dice = random.Random(0)
        rows = [
            {
                "prompt": _words(dice, dice.lognormvariate(4.4, 0.7)),
                "chosen": _words(dice, dice.lognormvariate(3.6, 0.8)),
                "rejected": _words(dice, dice.lognormvariate(3.6, 0.8)),
            }
            for _ in range(count)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def _words(dice: random.Random, length: float) -> str:
    letters = string.ascii_lowercase + "     "
    return "a" + "".join(dice.choice(letters) for _ in range(min(480, max(2, int(length))))).rstrip() + "."
