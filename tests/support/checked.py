"""Builds the trainers that a JSON file describes and notes what is said of their models; knows a family that is wrong.

The family `leaking` is Llama with two faults that a decoder can have: `leak` adds to each token's embedding the one
before it, whoever's that is in the packed row, as a short convolution does; `gain` multiplies embeddings where
the model's own forward calls the decoder, and nowhere else.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.engines.deepspeed.environment import prepare_environment
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.assembly import build_trainer
from sparsepo_dist.runs.inputs import load_inputs
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.run import open_run


class LeakingConfig(LlamaConfig):
    model_type = "leaking"
    leak: bool = False
    gain: float = 1.0


class LeakingModel(LlamaModel):
    config_class = LeakingConfig

    def forward(self, input_ids: Tensor, inputs_embeds: None = None, gain: float = 1.0, **others: Any) -> Any:
        embeddings = gain * self.embed_tokens(input_ids)
        if self.config.leak:
            embeddings = embeddings + torch.cat([torch.zeros_like(embeddings[:, :1]), embeddings[:, :-1]], 1)
        return super().forward(inputs_embeds=embeddings, **others)


class LeakingForCausalLM(LlamaForCausalLM):
    config_class = LeakingConfig

    def __init__(self, config: LeakingConfig) -> None:
        super().__init__(config)
        self.model = LeakingModel(config)
        self.post_init()

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None, **others: Any) -> Any:
        return super().forward(input_ids, position_ids=position_ids, gain=self.config.gain, **others)


AutoConfig.register("leaking", LeakingConfig)
AutoModelForCausalLM.register(LeakingConfig, LeakingForCausalLM)


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def said_of(arguments: list[str]) -> dict[str, Any]:
    """What is logged while a trainer is built, and the error that ends it."""
    kept, log = _Kept(), logging.getLogger("sparsepo_dist")
    log.addHandler(kept)
    error = None
    inputs = load_inputs(parse_train(arguments))
    folder, lock = open_run(inputs.config)
    try:
        build_trainer(inputs, folder)
    except UserError as refusal:
        error = str(refusal)
    finally:
        log.removeHandler(kept)
        if lock is not None:
            lock.close()
    return {"lines": [line for line in kept.lines if "own numbers" in line], "error": error}


def main() -> None:
    """One rank's part; FILE.RANK.json holds what was said on it, by run."""
    plan = Path(sys.argv[1])
    prepare_environment()
    distributed.initialise()
    found = {name: said_of(arguments) for name, arguments in json.loads(plan.read_text()).items()}
    plan.with_suffix(f".{distributed.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.exit(guarded(main))
