"""Tests choose an instruction set; the next one starts with the fastest again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sparsepo_dist.ops.compiled import load_cpp


@pytest.fixture(autouse=True)
def fastest_instruction_set_again() -> Iterator[None]:
    yield
    if load_cpp().usable:
        torch.ops.sparsepo_kernels.use_instruction_set("")
