"""`make bench-ops` runs, and its table and JSON hold what docs/performance.md quotes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_of_the_operation_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    output = tmp_path / "ops.json"
    command = [sys.executable, "-m", "benchmarks.ops", "--quick", "--rounds", "1", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "x eager" in done.stdout and "share of matrix rate" in done.stdout
    found = json.loads(output.read_text())
    assert found["device"] and found["read_bytes_per_second"] > 0
    assert {row["dtype"] for row in found["kernels"]} == {"fp32", "bf16"}
    assert {(row["head"], row["products"]) for row in found["operation"]} == {
        ("trainable", 6), ("trainable", 4), ("frozen", 5), ("frozen", 3),
    }  # fmt: skip
    assert [row["masked out"] for row in found["sparsity"]] == 2 * [0.0, 0.5, 0.8, 0.95]
    assert all(run["seconds"] > 0 for row in found["operation"] for run in row["seconds"].values())


def test_recorded_results_name_their_device() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        found = json.loads(path.read_text())
        assert found["device"] and found["date"] and found["torch"], path
