"""Every random state of this process, as tensors that safetensors can hold."""

from __future__ import annotations

import json
import random

import numpy as np
import torch
from torch import Tensor


def capture() -> dict[str, Tensor]:
    """States of Python's, NumPy's and torch's generators, this rank's device included: [bytes] uint8, [words] int64."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    others = {"python": [version, list(words), gauss], "numpy": [kind, int(position), int(has_gauss), float(cached)]}
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "others": torch.tensor(list(json.dumps(others).encode()), dtype=torch.uint8),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore(states: dict[str, Tensor]) -> None:
    """Put back what `capture` took: flat tensors on the CPU, [bytes] uint8 and [words] int64."""
    others = json.loads(bytes(states["others"].tolist()))
    version, words, gauss = others["python"]
    random.setstate((version, tuple(words), gauss))
    kind, position, has_gauss, cached = others["numpy"]
    np.random.set_state((kind, states["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
