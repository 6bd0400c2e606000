"""Time things in turn, measure what they allocate, and what the machine could do at best."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

MIB = 2**20


class Measured(NamedTuple):
    """Of one candidate: seconds (median), half the distance of their quartiles, bytes beyond its inputs."""

    seconds: float
    spread: float
    peak_bytes: int


def in_turn(candidates: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, Measured]:
    """Run every candidate once to warm up and to measure its memory, then all of them in turn, `rounds` times."""
    peaks = {name: _peak(run, device) for name, run in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            seconds[name].append(_seconds(run, device))
    return {name: Measured(statistics.median(s), _spread(s), peaks[name]) for name, s in seconds.items()}


def describe(device: torch.device) -> dict[str, object]:
    """What the figures depend on besides the code."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def read_bandwidth(device: torch.device, rounds: int = 7) -> float:
    """Bytes per second that memory delivers to the fastest of three reductions over 1 GiB."""
    data = torch.ones(2**28, device=device)
    runs = {"sum": lambda: data.sum(), "max": lambda: data.amax(), "dot": lambda: data[: 2**27].dot(data[2**27 :])}
    return data.nbytes / min(m.seconds for m in in_turn(runs, rounds, device).values())


def copy_bandwidth(device: torch.device, rounds: int = 7) -> float:
    """Bytes per second, read and written, of a copy of 512 MiB."""
    source = torch.ones(2**27, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / in_turn({"copy": lambda: target.copy_(source)}, rounds, device)["copy"].seconds


def matrix_rate(dtype: torch.dtype, device: torch.device, rounds: int = 7, size: int | None = None) -> float:
    """Floating-point operations per second of the product of two square matrices, of `size` rows if given."""
    size = size or (8192 if device.type == "cuda" else 2048)
    matrix = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / in_turn({"product": lambda: matrix @ matrix}, rounds, device)["product"].seconds


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    started = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - started


def _peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that `run` holds at most beyond what is there before it."""
    run()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    reset_peak()
    before = resident_bytes()
    run()
    return max(0, resident_peak_bytes() - before)


def reset_peak() -> None:
    """Give freed memory back, and forget the highest resident size."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def resident_bytes() -> int:
    """Memory of this process now."""
    return _status("VmRSS")


def resident_peak_bytes() -> int:
    """The most memory of this process since `reset_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Where there is a GPU of its memory, else as `reset_peak`."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak()


def used_bytes() -> int:
    """Of the GPU's memory what tensors hold, where there is one, else this process's memory."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else resident_bytes()


def peak_bytes() -> int:
    """The most of it since `forget_peak`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_peak_bytes()


def seconds_now() -> float:
    """A clock that has waited for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _spread(values: list[float]) -> float:
    if len(values) < 4:
        return (max(values) - min(values)) / 2
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {len(os.sched_getaffinity(0))} cores"
    return platform.processor() or platform.machine()
