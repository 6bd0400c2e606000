"""Tiny models of the common families, with random weights, and a tokenizer that knows every byte."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

VOCABULARY = 272
_SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 256,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "gemma": GemmaConfig(**{**_SHAPE, "num_key_value_heads": 1}, head_dim=16),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=256),
    "gpt_bigcode": GPTBigCodeConfig(n_embd=32, n_layer=3, n_head=4, n_positions=256),
    "gpt_neox": GPTNeoXConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, max_position_embeddings=256
    ),
    "gptj": GPTJConfig(n_embd=32, n_layer=3, n_head=4, n_positions=256, rotary_dim=4),
    "llama": LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "mistral": MistralConfig(**_SHAPE, head_dim=8),
    "qwen2": Qwen2Config(**_SHAPE),
}  # fmt: skip


def tiny_config(family: str, positions: int = 256, vocabulary: int = VOCABULARY) -> PretrainedConfig:
    """A fresh configuration of a family."""
    config = CONFIGS[family]
    name = "n_positions" if hasattr(config, "n_positions") else "max_position_embeddings"
    values = {**config.to_dict(), name: positions, "vocab_size": vocabulary, "bos_token_id": 256, "eos_token_id": 257}
    return type(config).from_dict(values)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, 256 <s>, 257 </s>; no chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def save_tiny_model(
    folder: Path, family: str = "llama", seed: int = 0, positions: int = 256, vocabulary: int = VOCABULARY
) -> Path:
    """A model folder with weights large enough that logits differ visibly between tokens."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, positions, vocabulary), dtype=torch.float32)
    return save_drawn(model, folder)


def save_drawn(model: PreTrainedModel, folder: Path) -> Path:
    """A model's folder, once its weights are drawn so large that logits differ visibly between tokens."""
    draw_weights(model)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def draw_weights(model: PreTrainedModel) -> None:
    """Matrices of a model anew, from torch's generator."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.15)


def write_pairs(path: Path, count: int, seed: int = 0) -> Path:
    """Pairs of random words, of uneven lengths, with scores."""
    generator = torch.Generator().manual_seed(seed)
    words = ["film", "slow", "bright", "awful", "good", "a", "the", "never", "again", "dull", "sharp", "story"]

    def text(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return " ".join(words[int(i)] for i in torch.randint(len(words), (length,), generator=generator))

    rows = [
        {"prompt": text(1, 5), "chosen": " " + text(1, 7), "rejected": " " + text(1, 7) + "!",
         "chosen_score": 1.5 + number, "rejected_score": 0.5}
        for number in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def main() -> None:
    """Write a model and pairs: `python -m tests.support.tiny FOLDER --family gptj --pairs 6`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=sorted(CONFIGS), default="llama")
    parser.add_argument("--pairs", type=int, default=8)
    arguments = parser.parse_args()
    save_tiny_model(arguments.folder / "model", arguments.family, positions=2048)
    write_pairs(arguments.folder / "pairs.jsonl", arguments.pairs)


if __name__ == "__main__":
    main()
