"""Tiny models of the common families, with random weights, and a tokenizer that knows every byte."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

VOCABULARY = 272
CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=256),
    "gpt_neox": GPTNeoXConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, max_position_embeddings=256
    ),
    "gptj": GPTJConfig(n_embd=32, n_layer=3, n_head=4, n_positions=256, rotary_dim=4),
    "llama": LlamaConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        max_position_embeddings=256, tie_word_embeddings=True,
    ),
}  # fmt: skip


def tiny_config(family: str) -> PretrainedConfig:
    """A fresh configuration of a family."""
    config = CONFIGS[family]
    values = {**config.to_dict(), "vocab_size": VOCABULARY, "bos_token_id": 256, "eos_token_id": 257}
    return type(config).from_dict(values)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, 256 <s>, 257 </s>; no chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def save_tiny_model(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """A model folder with weights large enough that logits differ visibly between tokens."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_pairs(path: Path, count: int, seed: int = 0) -> Path:
    """Pairs of random words, of uneven lengths."""
    generator = torch.Generator().manual_seed(seed)
    words = ["film", "slow", "bright", "awful", "good", "a", "the", "never", "again", "dull", "sharp", "story"]

    def text(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return " ".join(words[int(i)] for i in torch.randint(len(words), (length,), generator=generator))

    rows = [
        {"prompt": text(1, 5), "chosen": " " + text(1, 7), "rejected": " " + text(1, 7) + "!"} for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
