"""Tests of the sandbox need a machine that can confine a process."""

from __future__ import annotations

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.evaluation.sandbox.self_test import check_machine


@pytest.fixture(scope="module", autouse=True)
def confining_machine() -> None:
    try:
        check_machine(Limits())
    except UserError as error:
        pytest.skip(str(error))
