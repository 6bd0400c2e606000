"""What documents say can be done: commands are understood, and options, fields, files and rooms are there."""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
import re
import shlex
from pathlib import Path
from typing import get_type_hints

import pytest

from sparsepo_dist.evaluation.jobs.spec import read_plan
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.parsing import parse_train
from tests.support.documents import (
    DOCUMENTS,
    ROOT,
    blocks,
    check,
    check_mention,
    check_training,
    commands,
    is_mention,
    is_whole,
    read,
    spans,
    training_options,
)
from tests.test_architecture import FLOORS, ROOMS

SPANS = list(dict.fromkeys(span for document in DOCUMENTS for span in spans(document)))
SECTIONS = [name for name, kind in get_type_hints(RunConfig).items() if dataclasses.is_dataclass(kind)]
FOLDERS = ("benchmarks", "csrc", "docs", "ds_configs", "evaluation", "launch", "sparsepo_dist", "tests")
FILES = [path.name for path in ROOT.glob("[!.]*")]
FILES += [str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
PATH = re.compile(r"[\w*-]+(?:[/.][\w*-]+)*(?:/|\.(?:py|h|cpp|cu|md|yaml|sbatch)|/[\w*.-]+\.json|-\*)")
OF_A_RUN = ("step-N/", "final/", "checkpoints/", "monitor/", "config.yaml", "code.md", "table.md")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("document", "command"), [(document, command) for document in DOCUMENTS for command in commands(document)]
)
def test_commands_are_understood(document: str, command: str) -> None:
    if command.startswith("--"):  # what is added to a training's
        check_training(shlex.split(command))
    else:
        check(command)


@pytest.mark.parametrize("span", filter(is_whole, SPANS))
def test_commands_in_the_text_are_understood(span: str) -> None:
    check(span)


@pytest.mark.parametrize("span", filter(is_mention, SPANS))
def test_programs_and_options_in_the_text_exist(span: str) -> None:
    check_mention(span)


@pytest.mark.parametrize("span", [span for span in SPANS if span.split(".")[0] in SECTIONS and "." in span])
def test_fields_in_the_text_exist_and_take_their_values(span: str) -> None:
    field, value = re.match(r"([\w.]+):? ?(.*)", span).groups()
    assert f"--{field}" in training_options()
    if value and "..." not in value:
        parse_train([f"--{field}", value])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", read(document)):
        target = (ROOT / document).parent / link if link else ROOT / document
        assert target.is_file(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [title.lower().replace(" ", "-") for title in titles], anchor


def mentioned_paths() -> list[str]:
    words = [word for span in SPANS for word in span.split(": ")[0].split()]
    paths = [word for word in words if PATH.fullmatch(word) and not re.search(r"[A-Z]{2,}(?!\w)", word)]
    return sorted(set(paths).difference(OF_A_RUN))


@pytest.mark.parametrize("path", mentioned_paths())
def test_files_in_the_text_exist(path: str) -> None:
    """From the root, or from a folder that the text is about."""
    assert any(fnmatch.fnmatch(f"/{file}", f"*/{path.rstrip('/')}") for file in FILES)


def test_the_jobs_example_is_understood(tmp_path: Path) -> None:
    (example,) = blocks("docs/evaluation.md", "yaml")
    (tmp_path / "jobs.yaml").write_text(example)
    assert read_plan(tmp_path / "jobs.yaml", ROOT / "evaluation").suites


def test_the_architecture_names_every_room_in_order_and_their_floors() -> None:
    rows = read("docs/architecture.md").split("| room | what it does |\n| --- | --- |\n")[1].split("\n\n")[0]
    named = {row.split(" | ")[0]: row.split(" | ")[1] for row in rows.splitlines()}
    assert re.findall(r"`(\w+)/?`", " ".join(named)) == ROOMS
    for room, floors in FLOORS.items():
        folders = [floor for floor in floors if floor not in ("", "config", "composite", "contracts")]
        assert all(f"`{folder}/`" in named[f"| `{room}/`"] for folder in folders), room


def test_every_row_of_the_faults_names_a_test_that_exists() -> None:
    rows = [line for line in read("docs/faults.md").splitlines() if line.startswith("| ") and "---" not in line]
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named or row.startswith("| fault |"), row
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert any(isinstance(node, ast.FunctionDef) and node.name == test for node in tree.body), (file, test)
