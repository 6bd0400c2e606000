"""What a machine does in a second: a vendor's peak figures by name, or measured terms in a file."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsepo_dist.errors import UserError
from sparsepo_dist.files import parse_json, read_text

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Machine:
    """Terms of the time model. Units as vendors give them: 10^12 operations, 10^9 bytes, microseconds.

    Raises:
        UserError: a term is out of its range.
    """

    name: str
    matrix_tflops: dict[str, float]
    """Rate of matrix products by dtype (`float32`, `bfloat16`)."""
    bandwidth: float
    """GB/s that a GPU sends to others of its node."""
    network: float
    """GB/s between nodes, for each GPU of a node."""
    memory_bandwidth: float
    """GB/s of a GPU's own memory."""
    matrix_share: float = 1.0
    """Share of the matrix rate that training's products reach."""
    gpus_per_node: int = 8
    call_us: float = 8.4
    """A collective's start."""
    step_us: float = 3.4
    """Each step of a ring within a node."""
    network_step_us: float = 14.0
    """Each step of a ring between nodes."""
    overlap: float = 0.0
    """Share of communication that runs beside arithmetic."""
    measured: bool = False
    """Whether the terms were measured, or are a vendor's and assumptions."""

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("bandwidth", "network", "memory_bandwidth", "gpus_per_node")}
        for name, value in {**positive, **{f"matrix_tflops, {k}": v for k, v in self.matrix_tflops.items()}}.items():
            if not 0 < value < math.inf:
                raise UserError(f"machine: {name}: {value} must be greater than 0, and finite")
        if not 0 < self.matrix_share <= 1:
            raise UserError(f"machine: matrix_share: {self.matrix_share} must be in (0, 1]")
        if not 0 <= self.overlap <= 1:
            raise UserError(f"machine: overlap: {self.overlap} must be in [0, 1]")

    def rate(self, dtype: torch.dtype) -> float:
        """Operations a second of matrix products, at their peak.

        Raises:
            UserError: nothing is known of this dtype.
        """
        name = str(dtype).removeprefix("torch.")
        if name not in self.matrix_tflops:
            raise UserError(f"machine: nothing is known of {self.name}'s products in {name}; give --matrix_tflops")
        return self.matrix_tflops[name] * 1e12

    def link(self, ranks: int) -> float:
        """Bytes a second that each rank of a ring sends.

        Several rings run at once, each with its own way out of a node, so that a node's GPUs share its network.
        """
        inside = self.bandwidth * 1e9
        return inside if ranks <= self.gpus_per_node else min(inside, self.gpus_per_node * self.network * 1e9)


# Peak figures for dense products and one direction of NVLink, from NVIDIA's data sheets of the SXM versions (80 GB) and
# of DGX systems (8 network adapters of 400 and 200 Gbit/s). float32 is what it says, not TF32: torch's default. The
# share is what Llama 3 reports on up to 16,384 H100 in bfloat16 (38 to 43 %, arXiv 2407.21783, table 4): an assumption
# here. Latencies of rings are those of NCCL's own cost model (src/graph/tuning.cc, protocol Simple).
KNOWN = {
    "h100": Machine("h100", {"bfloat16": 989.4, "float16": 989.4, "float32": 66.9}, 450, 50, 3350, 0.4),
    "a100": Machine("a100", {"bfloat16": 312, "float16": 312, "float32": 19.5}, 300, 25, 2039, 0.4),
}


def find_machine(name: str) -> Machine:
    """A known machine, or one whose measured terms `python -m benchmarks.traffic` has written.

    Raises:
        UserError: neither, or a term is out of its range.
    """
    if name in KNOWN:
        return KNOWN[name]
    file = Path(name)
    if not file.is_file():
        raise UserError(
            f"machine: {name} is neither {' nor '.join(KNOWN)} nor a file of measured terms (benchmarks/traffic.py "
            "writes one)"
        )
    try:
        terms: Any = parse_json(read_text(file, f"machine: {name}"))["machine"]
        if not isinstance(terms["matrix_tflops"], dict):
            raise TypeError("matrix_tflops must be an object, a rate for each dtype")
        return Machine(**terms, measured=True)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"machine: {name} does not hold a machine's terms: {error}; see docs/scaling.md") from None


def changed(machine: Machine, dtype: torch.dtype, **given: Any) -> Machine:
    """A machine with the terms that are given; `matrix_tflops` is of products in `dtype`.

    Raises:
        UserError: a term is out of its range.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if "matrix_tflops" in given:
        name = str(dtype).removeprefix("torch.")
        given["matrix_tflops"] = {**machine.matrix_tflops, name: given["matrix_tflops"]}
    return dataclasses.replace(machine, **given)
