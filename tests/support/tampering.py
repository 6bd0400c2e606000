"""Files that somebody has changed so that their checksums do not show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sparsepo_dist.disk import sha256
from sparsepo_dist.training.checkpoints.store import COMPLETE, MANIFEST


class Trap:
    """Runs code when it is unpickled: it touches a file."""

    def __init__(self, where: Path) -> None:
        self.where = str(where)

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(self.where),))


def resigned(checkpoint: Path, name: str, content: str | bytes) -> None:
    """Another content for a file of a checkpoint, with its checksums."""
    (checkpoint / name).write_bytes(content.encode() if isinstance(content, str) else content)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest[name] = {"bytes": (checkpoint / name).stat().st_size, "sha256": sha256(checkpoint / name)}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    (checkpoint / COMPLETE).write_text(sha256(checkpoint / MANIFEST))


def trapped(checkpoint: Path, file: Path, sprung: Path) -> None:
    """A trap in one of DeepSpeed's files of a checkpoint, beside what it holds."""
    state = torch.load(file, weights_only=False)
    torch.save({**state, "more": Trap(sprung)}, file)
    resigned(checkpoint, file.relative_to(checkpoint).as_posix(), file.read_bytes())
