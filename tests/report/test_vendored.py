"""The plotting library that pages carry is the one that its table says, with its licence."""

from __future__ import annotations

import hashlib
import re

from sparsepo_dist.report.pages.document import ASSETS


def test_files_are_those_of_the_table() -> None:
    table = (ASSETS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| (\d+) \| ([0-9a-f]{64}) \|$", table, re.MULTILINE)
    assert {name for name, _, _ in rows} == {"uplot.min.js", "uplot.min.css"}
    for name, size, digest in rows:
        content = (ASSETS / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (int(size), digest)
    assert "The MIT License" in (ASSETS / "uplot-LICENSE.txt").read_text(encoding="utf-8")
