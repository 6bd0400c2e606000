"""Models of known shapes with random weights, and a tokenizer whose ids fit into any vocabulary."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

_PYTHIA = {"70m": (512, 6, 8), "410m": (1024, 24, 16), "1.4b": (2048, 24, 16), "tiny": (64, 2, 4)}
"""Width, layers and heads."""


def pythia_config(size: str) -> GPTNeoXConfig:
    """The shape of Pythia-70M, -410M or -1.4B by 70m, 410m or 1.4b; `tiny` is none of them."""
    width, layers, heads = _PYTHIA[size]
    return GPTNeoXConfig(
        vocab_size=512 if size == "tiny" else 50304, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=2048,
    )  # fmt: skip


def save_random_model(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, *,
    dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> None:  # fmt: skip
    """Weights of one seed, drawn on a device, and a tokenizer."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """A token for each byte, and <eos>."""
    bytes_ = Tokenizer(BPE({letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    bytes_.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bytes_.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<eos>")
