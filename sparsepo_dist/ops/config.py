"""What the fused operation is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sparsepo_dist.errors import UserError

BackendName = Literal["auto", "eager", "cpp", "cuda"]

DivergenceForm = Literal["policy", "reference"]
"""The distribution that the log-ratio is averaged under: `policy` gives KL(pi || pi_ref), the paper's Eq. 6-8;
`reference` gives -KL(pi_ref || pi), the released implementation."""


@dataclass
class OpsConfig:
    """The fused operation over the LM head."""

    backend: BackendName = "auto"
    """`cpp` and `cuda` are the compiled kernels, `eager` is plain PyTorch; `auto` takes the compiled one that fits the
    device and builds it at first use where the installation did not."""
    tile_bytes: int = 32 * 2**20
    """Bytes of logits, of both models, that are computed at once: a tile of rows x vocabulary entries."""
    keep_bytes: int = 256 * 2**20
    """Bytes of logits, of both models, that are kept from forward to backward; what does not fit is computed again.
    0 computes all of it again."""

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        if self.backend not in get_args(BackendName):
            raise UserError(f"ops.backend: {self.backend!r} is not one of {', '.join(get_args(BackendName))}")
        for name, least in (("tile_bytes", 1), ("keep_bytes", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value < 2**63:
                raise UserError(f"ops.{name}: {value!r} must be a whole number of bytes, {least} or more")
