"""Imports point one way, as the list of rooms has it; files stay short."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sparsepo_dist"
# A room imports only from those above it in this list (docs/architecture.md).
ROOMS = [
    "errors", "files", "contracts", "ops", "data", "masks", "objectives", "engines", "training", "sampling", "builtin",
    "runs", "plan", "report", "evaluation", "experiments", "commands",
]  # fmt: skip
MOST_LINES = 400
FOLDERS = ("sparsepo_dist", "evaluation", "tests", "benchmarks", "csrc")
SUFFIXES = (".py", ".cpp", ".cu", ".cuh", ".h", ".inc")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparsepo_dist."):
            names.add(str(node.module).split(".")[1])
    return names


def test_every_file_belongs_to_a_room_and_imports_only_upwards() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "__init__.py":
            continue
        place = ROOMS.index(room(path))
        wrong = [name for name in imported_rooms(path) if ROOMS.index(name) > place]
        assert not wrong, f"{path} imports from {wrong}"


def test_objectives_know_no_model_and_no_distributed_call() -> None:
    for path in (PACKAGE / "objectives").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "torch.distributed" not in text and "transformers" not in text and "deepspeed" not in text, path


def test_files_are_short() -> None:
    for folder in FOLDERS:
        paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
        assert paths, folder
        for path in paths:
            assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, path
