"""What a model's files are, told without reading all of them: ranks on several machines compare it before training."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from transformers import PretrainedConfig

from sparsepo_dist.disk import add_samples

_WEIGHTS = ("*.safetensors", "*.bin")


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
        add_samples(digest, file)
    return digest.hexdigest()
