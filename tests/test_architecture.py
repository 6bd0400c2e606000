"""Imports point one way, as the list of rooms has it; files stay short."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sparsepo_dist"
# A room imports only from those above it in this list (docs/architecture.md).
ROOMS = [
    "errors", "exports", "files", "fields", "disk", "contracts", "ops", "data", "masks", "objectives", "engines",
    "training", "sampling", "builtin", "runs", "plan", "report", "inspection", "queueing", "evaluation", "preparation",
    "experiments", "commands",
]  # fmt: skip
# Within a room that has floors, likewise; "" stands for the files that lie in the room itself.
FLOORS = {
    "data": ["reading", "config", "rows", "tokens", "store", "batching", ""],
    "engines": ["config", "composite", "deepspeed", "sequence", "attention", "layouts", "adapters", "decoder", "",
                "reference"],
    "training": ["supervision", "checkpoints", ""],
    "runs": ["config", "recipes", "", "first"],
    "plan": ["asked", "model", "needs", "speed", ""],
    "report": ["", "pages"],
    "evaluation": ["", "sandbox", "code", "leaderboard", "summary", "frontier", "preference", "jobs"],
    "preparation": ["", "sentiment", "dialogue", "summaries", "code", "mix", "pairs"],
    "experiments": ["contracts", "drawing", "sentiment", "stages", "files", ""],
    "commands": ["saying", ""],
}  # fmt: skip
# A room with more files gets floors, but for one file a loss.
MOST_FILES, LISTS = 12, ("objectives",)
MOST_LINES = 400
FOLDERS = ("sparsepo_dist", "evaluation", "tests", "benchmarks", "csrc")
SUFFIXES = (".py", ".cpp", ".cu", ".cuh", ".h", ".inc")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[tuple[str, ...]]:
    """Modules of the package that a file imports, without the package's name; names from a folder count as modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            module = tuple(str(node.module).split(".")[1:])
            if (PACKAGE.joinpath(*module)).is_dir():
                found |= {(*module, alias.name) for alias in node.names}
            else:
                found.add(module)
        elif isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == PACKAGE.name}
    return found


def test_every_file_belongs_to_a_room_and_imports_only_upwards() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "__init__.py":
            continue
        place = ROOMS.index(room(path))
        wrong = [module[0] for module in imported_modules(path) if ROOMS.index(module[0]) > place]
        assert not wrong, f"{path} imports from {wrong}"


def floor(names: Sequence[str], floors: Sequence[str]) -> int:
    """The place of a module in a room, given its name without the room's."""
    return floors.index(names[0] if names and names[0] in floors else "")


@pytest.mark.parametrize("room", FLOORS)
def test_floors_import_only_upwards(room: str) -> None:
    floors = FLOORS[room]
    assert {path.name for path in (PACKAGE / room).iterdir() if (path / "__init__.py").is_file()} <= set(floors)
    for path in sorted((PACKAGE / room).rglob("*.py")):
        place = floor(path.relative_to(PACKAGE / room).with_suffix("").parts, floors)
        for module in imported_modules(path):
            if module[:1] == (room,) and len(module) > 1:
                assert floor(module[1:], floors) <= place, f"{path} imports {'.'.join(module)}"


def test_no_room_is_a_crowd() -> None:
    for folder in [PACKAGE, *(path for path in PACKAGE.rglob("*") if (path / "__init__.py").is_file())]:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES or folder.name in LISTS, f"{folder} has {len(files)} files: give it floors"


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
