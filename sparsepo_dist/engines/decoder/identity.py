"""What a model's files are, told without reading all of them: ranks on several machines compare it before training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

_WEIGHTS = ("*.safetensors", "*.bin")
_SAMPLES, _SAMPLE_BYTES = 256, 4096


def model_fingerprint(path: str, config: PretrainedConfig) -> str:
    """SHA-256 of a model's configuration and its weight files' names, sizes and samples; of a hub's revision for an id.

    Args:
        path: folder or hub id.
        config: the model's, as loaded from there.

    Raises:
        OSError: a file cannot be read.
    """
    told = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    folder = Path(path)
    if not folder.is_dir():
        digest.update(str(getattr(config, "_commit_hash", None)).encode())
    for file in sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        _add_samples(digest, file)
    return digest.hexdigest()


def _add_samples(digest: hashlib._Hash, file: Path) -> None:
    """The beginning, which holds names and shapes, the end, and blocks in even steps between them."""
    last = max(0, file.stat().st_size - _SAMPLE_BYTES)
    with file.open("rb") as handle:
        for number in range(_SAMPLES):
            handle.seek(last * number // (_SAMPLES - 1))
            digest.update(handle.read(_SAMPLE_BYTES))


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's vocabulary, rules, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    told = [rules, tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
