"""What concerns all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from sparsepo_dist.disk import cache_folder
from tests.support.pretended import pretend

# Workers take files in turn: those that take minutes come first, so that none is left over for the end.
LONGEST = ("tests/experiments/", "tests/runs/", "tests/training/", "tests/launch/", "tests/plan/", "tests/engines/")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module looks at the machine."""
    try:
        config.add_cleanup(pretend())
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, otherwise in the given order; where an order is to be random, it is shuffled after this."""

    def place(item: pytest.Item) -> int:
        return next((n for n, prefix in enumerate(LONGEST) if item.nodeid.startswith(prefix)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def pairs_are_kept_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Token ids of what tests read do not stay on the machine; the built-in model does, which takes long to make."""
    folder = tmp_path_factory.mktemp("cache")
    model = cache_folder() / "smollm2-135m-instruct"
    if model.is_dir():
        (folder / model.name).symlink_to(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEPO_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True)
def no_rank_is_left() -> Iterator[None]:
    """A test that makes a rank of its process changes what all later tests of the process find."""
    before = os.environ.get("RANK")
    yield
    assert os.environ.get("RANK") == before and not dist.is_initialized(), "this test left its process a rank"
