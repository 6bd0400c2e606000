"""Which code decides a result: the files that a module imports, directly or not, and kernels that are compiled."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

_SAYING = ("errors.py", "report", "evaluation/frontier/figure.py")
"""What words errors and draws results, and decides none."""
_SHIPPED = ("shipped/*", "templates/*")
"""What is read beside a module: the project's own data, chat templates."""
PACKAGE = Path(__file__).resolve().parents[2]
_KERNELS = PACKAGE.parent / "csrc"


@cache
def code_hash(modules: tuple[str, ...]) -> str:
    """SHA-256 over the source of modules (`runs.run`), of all that they import of the package, of what lies beside it
    to be read, and of csrc/ where ops/ is among it. A module that is a folder stands for all files in it. Comments,
    docstrings and what only words errors or draws is left out."""
    files: set[Path] = set()
    waiting = [path for module in modules for path in _files(module)]
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting += _imported(path)
    for folder in {path.parent for path in files}:
        files |= {path for name in _SHIPPED for path in folder.glob(name)}
    if any(path.parent == PACKAGE / "ops" for path in files):
        files |= {path for path in _KERNELS.rglob("*") if path.is_file()}
    digest = hashlib.sha256()
    for path in sorted(files):
        if not _only_says(path):
            digest.update(f"{path.relative_to(PACKAGE.parent)} {_content(path)}\n".encode())
    return digest.hexdigest()


def _only_says(path: Path) -> bool:
    return any(path.is_relative_to(PACKAGE / part) for part in _SAYING)


@cache
def _content(path: Path) -> str:
    """A hash of a file; of Python, of what it does."""
    data = path.read_bytes()
    if path.suffix == ".py":
        tree = ast.parse(data)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = [line for line in node.body if not _is_text(line)]
        data = ast.dump(tree).encode()
    return hashlib.sha256(data).hexdigest()


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def _files(module: str) -> list[Path]:
    path = PACKAGE.joinpath(*module.split("."))
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    """Files of the package that a file imports, within functions too; those of folders on the way included."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE.name]
        else:
            continue
        for name in names:
            parts = name.split(".")[1:]
            found |= {PACKAGE.joinpath(*parts[:end], "__init__.py") for end in range(len(parts) + 1)}
            found |= {PACKAGE.joinpath(*parts[:end]).with_suffix(".py") for end in range(1, len(parts) + 1)}
    return tuple(sorted(path for path in found if path.is_file()))
