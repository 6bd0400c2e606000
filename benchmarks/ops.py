"""The fused operation against eager PyTorch: kernels on given logits, the whole operation, its gain from sparsity.

    python -m benchmarks.ops [--output FILE.json] [--rounds 5] [--quick] [--keep_freed_memory]

Everything of a row runs in turn in this process, on the GPU where torch sees one. Absolute times stand in the JSON
only; the tables show ratios and shares of what this machine was measured to do in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import MIB, copy_bandwidth, describe, in_turn, matrix_rate, read_bandwidth
from benchmarks.tables import table
from sparsepo_dist.engines.deepspeed.distributed import keep_freed_memory
from sparsepo_dist.ops import Head, OpsConfig, token_stats
from sparsepo_dist.ops.backend import choose_backend
from sparsepo_dist.ops.kernels import Tile, TileKernels, Upstream, finish, new_state

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RECOMPUTE, KEEP = 0, 2**62
RATIO = "x eager"


class Machine(NamedTuple):
    """Ceilings measured in this run."""

    device: torch.device
    read: float
    copy: float
    matrix: dict[str, float]


class Sizes(NamedTuple):
    """What is measured: (vocabulary, rows) of the kernels, (vocabulary, width, rows) of the operation."""

    kernels: list[tuple[int, int]]
    operation: list[tuple[int, int, int]]
    sparsity: tuple[int, int, int]


CPU = Sizes(
    [(v, n) for v in (32000, 50304, 128256) for n in (64, 512)],
    [(32000, 2048, 256), (50304, 512, 512), (49152, 576, 1024), (128256, 1024, 256)],
    (50304, 512, 1024),
)
GPU = Sizes(
    [(v, n) for v in (32000, 50304, 128256, 262144) for n in (64, 1024, 4096)],
    [(32000, 4096, 4096), (50304, 2048, 4096), (128256, 4096, 4096), (128256, 4096, 16384)],
    (50304, 2048, 16384),
)
QUICK = Sizes([(1000, 8)], [(1000, 16, 32)], (1000, 16, 64))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file of every figure")
    parser.add_argument("--rounds", type=int, default=5, help="times that everything is run in turn")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--keep_freed_memory", action="store_true", help="for eager too, as training does on CPUs")
    arguments = parser.parse_args()
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.keep_freed_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = QUICK if arguments.quick else GPU if device.type == "cuda" else CPU
    # Without hardware for it a product in bf16 takes hundreds of times as long.
    square = 256 if arguments.quick else None
    rates = {name: matrix_rate(dtype, device, size=square) for name, dtype in DTYPES.items()}
    machine = Machine(device, read_bandwidth(device), copy_bandwidth(device), rates)
    result: dict[str, object] = {
        **describe(device),
        "freed_memory_kept": arguments.keep_freed_memory,
        "backend": {name: str(choose_backend("auto", device.type, dtype).reason) for name, dtype in DTYPES.items()},
        "read_bytes_per_second": machine.read,
        "copy_bytes_per_second": machine.copy,
        "matrix_flops_per_second": machine.matrix,
    }
    print(json.dumps(result, indent=2), file=sys.stderr)
    tables = {
        "kernels": ("Kernels on given logits, forward and backward", kernel_rows(sizes, machine, arguments.rounds)),
        "operation": ("From hidden rows, forward and backward", operation_rows(sizes, machine, arguments.rounds)),
        "sparsity": ("Time against the share of tokens masked out", sparsity_rows(sizes, machine, arguments.rounds)),
    }
    for name, (title, generated) in tables.items():
        result[name] = rows = []
        for row in generated:
            rows.append(row)
            print(f"{name}: {len(rows)} rows", end="\r", file=sys.stderr, flush=True)
        print(table(title, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def kernel_rows(sizes: Sizes, machine: Machine, rounds: int) -> Iterator[dict[str, object]]:
    """Statistics and gradient of logits that are there already; ours in place, as the operation does.

    After its first run ours works on what that left: other numbers, the same work.
    """
    on_gpu = machine.device.type == "cuda"
    kind, bandwidth = ("copy", machine.copy) if on_gpu else ("read", machine.read)
    for name, dtype in DTYPES.items():
        kernels = choose_backend("auto", machine.device.type, dtype).kernels
        for vocabulary, rows in sizes.kernels:
            logits = Logits.random(rows, vocabulary, dtype, machine.device)
            _agree(logits.fused(kernels), logits.eager(), dtype)
            runs: dict[str, Callable[[], object]] = {"eager": logits.eager, "fused": partial(logits.fused, kernels)}
            found = in_turn(runs, rounds, machine.device)
            # Forward reads two matrices, backward reads two and writes one.
            moved = 5 * logits.policy.nbytes
            yield {
                "dtype": name, "vocabulary": vocabulary, "rows": rows,
                RATIO: found["eager"].seconds / found["fused"].seconds,
                f"share of {kind} bandwidth": moved / found["fused"].seconds / bandwidth,
                "eager MiB": found["eager"].peak_bytes / MIB, "fused MiB": found["fused"].peak_bytes / MIB,
                "seconds": {n: m._asdict() for n, m in found.items()},
            }  # fmt: skip


def operation_rows(sizes: Sizes, machine: Machine, rounds: int) -> Iterator[dict[str, object]]:
    """Statistics of hidden rows and gradients of rows and head, trainable or frozen, logits kept or computed again."""
    for name, dtype in DTYPES.items():
        for vocabulary, width, tokens in sizes.operation:
            for trainable in (True, False):
                inputs = Inputs.random(vocabulary, width, tokens, dtype, machine.device, trainable)
                runs: dict[str, Callable[[], object]] = {
                    "eager": inputs.eager,
                    "recompute": partial(inputs.fused, RECOMPUTE),
                    "keep": partial(inputs.fused, KEEP),
                }
                if importlib.util.find_spec("trl"):
                    runs["trl"] = inputs.trl_kernels
                _agree(inputs.fused(RECOMPUTE), inputs.eager(), dtype)
                found = in_turn(runs, rounds, machine.device)
                for run, products in (("recompute", 6 if trainable else 5), ("keep", 4 if trainable else 3)):
                    flops = products * 2 * tokens * width * vocabulary
                    yield {
                        "dtype": name, "vocabulary": vocabulary, "width": width, "tokens": tokens,
                        "head": "trainable" if trainable else "frozen", "logits": run, "products": products,
                        RATIO: found["eager"].seconds / found[run].seconds,
                        "x TRL's kernels": found["trl"].seconds / found[run].seconds if "trl" in found else "-",
                        "share of matrix rate": flops / found[run].seconds / machine.matrix[name],
                        "eager MiB": found["eager"].peak_bytes / MIB, "fused MiB": found[run].peak_bytes / MIB,
                        "seconds": {n: m._asdict() for n, m in found.items()},
                    }  # fmt: skip


def sparsity_rows(sizes: Sizes, machine: Machine, rounds: int) -> Iterator[dict[str, object]]:
    """The operation when a share of the tokens has both masks 0, and when only their divergence mask is 0."""
    vocabulary, width, tokens = sizes.sparsity
    for name, dtype in DTYPES.items():
        inputs = Inputs.random(vocabulary, width, tokens, dtype, machine.device, True)
        shares = (0.0, 0.5, 0.8, 0.95)
        runs: dict[str, Callable[[], object]] = {}
        for share in shares:
            masked = torch.rand(tokens, device=machine.device) < share
            runs[f"both {share}"] = partial(inputs.fused, RECOMPUTE, active=~masked)
            runs[f"divergence {share}"] = partial(inputs.fused, RECOMPUTE, divergence_mask=(~masked).float())
        found = in_turn(runs, rounds, machine.device)
        for share in shares:
            yield {
                "dtype": name, "masked out": share,
                "time, both masks": found[f"both {share}"].seconds / found["both 0.0"].seconds,
                "time, divergence mask": found[f"divergence {share}"].seconds / found["both 0.0"].seconds,
                "seconds": {n: m._asdict() for n, m in found.items() if n.endswith(f" {share}")},
            }  # fmt: skip


def eager_stats(policy: Tensor, reference: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The label's log-probability under policy and reference, and KL(pi || pi_ref), from whole logits."""
    log_p, log_r = policy.log_softmax(-1), reference.log_softmax(-1)
    logp, ref_logp = (x.gather(-1, labels.unsqueeze(-1)).squeeze(-1) for x in (log_p, log_r))
    return logp, ref_logp, (log_p.exp() * (log_p - log_r)).sum(-1)


class Logits(NamedTuple):
    """Logits of two models, and upstream gradients."""

    policy: Tensor
    reference: Tensor
    working: Tensor
    """The policy's once more: the kernels turn them into their gradient in place."""
    labels: Tensor
    grad: Tensor
    grad_v: Tensor

    @staticmethod
    def random(rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Logits:
        """Logits with a standard deviation of 3."""
        policy, reference = (3 * torch.randn(2, rows, vocabulary, device=device)).to(dtype)
        labels = torch.randint(vocabulary, (rows,), device=device)
        return Logits(policy, reference, policy.clone(), labels, *torch.randn(2, rows, device=device))

    def fused(self, kernels: TileKernels) -> tuple[Tensor, ...]:
        """The kernels on one tile, forward and backward."""
        tile = Tile(self.working, self.reference, self.labels, 0)
        state = new_state(len(self.labels), self.policy)
        kernels.forward(tile, "policy", state)
        logp, _, v, _ = finish(state, True, "policy")
        kernels.backward(tile, "policy", state, Upstream(self.grad, self.grad_v), self.working)
        return logp, v, self.working

    def eager(self) -> tuple[Tensor, ...]:
        """The same in plain PyTorch."""
        leaf = self.policy.detach().requires_grad_()
        logp, _, v = eager_stats(leaf, self.reference, self.labels)
        torch.autograd.backward((logp, v), (self.grad.to(logp.dtype), self.grad_v.to(v.dtype)))
        assert leaf.grad is not None
        return logp, v, leaf.grad


class Inputs(NamedTuple):
    """Hidden rows and heads of two models, and upstream gradients."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    ref_hidden: Tensor
    ref_weight: Tensor
    grad: Tensor
    grad_v: Tensor

    @staticmethod
    def random(v: int, d: int, n: int, dtype: torch.dtype, device: torch.device, trainable: bool) -> Inputs:
        """Logits with a standard deviation of 3."""
        hidden, ref_hidden = (torch.randn(n, d, device=device).to(dtype) for _ in range(2))
        weight, ref_weight = (torch.randn(v, d, device=device).mul_(3 / d**0.5).to(dtype) for _ in range(2))
        labels = torch.randint(v, (n,), device=device)
        return Inputs(
            hidden.requires_grad_(), weight.requires_grad_(trainable), labels, ref_hidden, ref_weight,
            *torch.randn(2, n, device=device),
        )  # fmt: skip

    def fused(
        self, keep_bytes: int, active: Tensor | None = None, divergence_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """token_stats, forward and backward."""
        stats = token_stats(
            self.hidden, Head(self.weight), self.labels, self.ref_hidden, Head(self.ref_weight), divergence="policy",
            active=active, config=OpsConfig(keep_bytes=keep_bytes),
        )  # fmt: skip
        assert stats.divergence is not None
        grad_v = self.grad_v if divergence_mask is None else self.grad_v * divergence_mask
        return self._backward(stats.policy_logp, stats.divergence, grad_v)

    def eager(self) -> tuple[Tensor, ...]:
        """The same over whole logits."""
        with torch.no_grad():
            reference = self.ref_hidden @ self.ref_weight.t()
        logp, _, v = eager_stats(self.hidden @ self.weight.t(), reference, self.labels)
        return self._backward(logp, v, self.grad_v)

    def trl_kernels(self) -> tuple[Tensor, ...]:
        """The same from TRL's chunked log-probabilities of both models and its chunked divergence."""
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
        from trl.kernels.chunked_logprob import ChunkedLogProbFunction

        options = (None, self.labels, 1.0, 8192, None, 1.0, ())
        logp = ChunkedLogProbFunction.apply(self.hidden, self.weight, *options)[0]
        with torch.no_grad():
            ChunkedLogProbFunction.apply(self.ref_hidden, self.ref_weight, *options)
        v = ChunkedDivergenceFunction.apply(
            self.hidden, self.weight, None, self.ref_hidden, self.ref_weight, None, 1.0
        )[0]
        return self._backward(logp, v, self.grad_v)

    def _backward(self, logp: Tensor, v: Tensor, grad_v: Tensor) -> tuple[Tensor, ...]:
        torch.autograd.backward((logp, v), (self.grad.to(logp.dtype), grad_v.to(v.dtype)))
        gradient = self.hidden.grad
        # The head's gradient counts as memory of each run, so none may be left from the one before.
        self.hidden.grad = self.weight.grad = None
        assert gradient is not None
        return logp, v, gradient


def _agree(ours: tuple[Tensor, ...], eager: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    """Both must have done the same work: eager's own rounding in bf16 is the bound there."""
    bound = 1e-4 if dtype == torch.float32 else 0.1
    for mine, theirs in zip(ours, eager, strict=True):
        error = (mine.float() - theirs.float()).norm() / theirs.float().norm()
        assert error < bound, f"the fused operation differs from eager PyTorch by {error:.1e}"


if __name__ == "__main__":
    main()
