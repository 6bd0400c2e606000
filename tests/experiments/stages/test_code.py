"""Which code counts: what a stage imports and what that does, not how it is worded."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsepo_dist.experiments.stages import code

FILES = {
    "__init__.py": "",
    "errors.py": "class UserError(Exception): ...\n",
    "train.py": '"""Trains."""\nfrom sparsepo_dist.errors import UserError\nimport sparsepo_dist.loss\n\nresult = 1\n',
    "loss.py": "def loss():\n    from sparsepo_dist.inner import kernel\n    return kernel\n",
    "inner.py": "kernel = 1\n",
    "unused.py": "value = 1\n",
    "shipped/rows.jsonl": "{}",
}  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sparsepo_dist"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(code, "PACKAGE", folder)
    return folder


@pytest.mark.parametrize(
    ("file", "text", "changes"),
    [
        ("inner.py", "kernel = 2\n", True),
        ("loss.py", "def loss():\n    from sparsepo_dist.inner import kernel\n    return kernel + 1\n", True),
        ("shipped/rows.jsonl", "[]", True),
        ("unused.py", "value = 2\n", False),
        ("errors.py", "class UserError(Exception):\n    exit_code = 2\n", False),
        ("train.py", FILES["train.py"].replace("Trains", "It trains").replace("= 1", "= 1  # one"), False),
    ],
)
def test_edits(package: Path, file: str, text: str, changes: bool) -> None:
    def hashed() -> str:
        code.code_hash.cache_clear()
        code._imported.cache_clear()
        code._content.cache_clear()
        return code.code_hash(("train",))

    before = hashed()
    (package / file).write_text(text)
    assert (hashed() != before) == changes
