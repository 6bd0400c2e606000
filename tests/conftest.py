"""What concerns all tests."""

from __future__ import annotations

import pytest

# Workers take files in turn: those that take minutes come first, so that none is left over for the end.
LONGEST = ("tests/test_readme.py", "tests/training/", "tests/resume/", "tests/launch/", "tests/plan/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, otherwise in the given order."""

    def place(item: pytest.Item) -> int:
        return next((n for n, prefix in enumerate(LONGEST) if item.nodeid.startswith(prefix)), len(LONGEST))

    items.sort(key=place)
