"""The benchmark of data runs, and writes what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import data
from tests.support.tiny import tiny_tokenizer


@pytest.mark.slow
def test_a_quick_run_gives_each_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    human, assistant = "\n\nHuman: why?\n\nAssistant:", " because {}"
    rows = [{side: human + assistant.format(side * n) for side in ("chosen", "rejected")} for n in range(1, 30)]
    (tmp_path / data.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    options = ["--data", tmp_path, "--tokenizer", tmp_path / "tokenizer", "--output", tmp_path / "found.json"]
    monkeypatch.setattr(sys, "argv", ["data", *map(str, options), "--quick", "--only", "preparation,start"])
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    data.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["pairs"] for row in (*found["preparation"], *found["start"])] == [400] * 4
    assert found["preparation"][0]["x ours, 1 process"] == 1 and found["device"]
