"""Data sets of a hub, which `datasets` is asked for; it is replaced here, as tests have no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset

from sparsepo_dist.data.reading.sources import Row, read_rows
from sparsepo_dist.errors import UserError

SPLITS = {"harmless": ["train", "test"], "helpful": ["train"], "test": ["train"]}
Asked = list[tuple[Any, ...]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """What is loaded of `owner/set`, whose configurations are those above, and of `plain`, which has one."""
    asked: Asked = []

    def names(path: str) -> list[str]:
        return list(SPLITS) if path == "owner/set" else ["default"]

    def splits(path: str, configuration: str | None = None) -> list[str]:
        if path == "plain":
            return ["train", "dev"]
        if configuration not in SPLITS:
            raise ValueError("Config name is missing")
        return SPLITS[configuration]

    def load(path: str, configuration: str | None = None, *, split: str, cache_dir: None) -> Dataset:
        asked.append((path, configuration, split))
        return Dataset.from_list([{"prompt": "a", "tools": [{"x": None, "y": 1}]}])

    monkeypatch.setattr(datasets, "get_dataset_config_names", names)
    monkeypatch.setattr(datasets, "get_dataset_split_names", splits)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.mark.parametrize(
    ("source", "loaded"),
    [
        ("plain", ("plain", None, "train")),
        ("plain:dev", ("plain", None, "dev")),
        ("plain[:40]", ("plain", None, "train[:40]")),
        ("plain:dev[10%:20%]", ("plain", None, "dev[10%:20%]")),
        ("plain:train[:1]+dev[:2]", ("plain", None, "train[:1]+dev[:2]")),
        ("owner/set:harmless", ("owner/set", "harmless", "train")),
        ("owner/set:helpful[:40]", ("owner/set", "helpful", "train[:40]")),
        ("owner/set:harmless:test", ("owner/set", "harmless", "test")),
        ("owner/set:harmless:test[:40]", ("owner/set", "harmless", "test[:40]")),
    ],
)
def test_name_configuration_split_and_slice(asked: Asked, source: str, loaded: tuple[Any, ...]) -> None:
    assert list(read_rows(source)) == [Row(f"{source}, row 1", {"prompt": "a", "tools": [{"y": 1}]})]
    assert asked == [loaded]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("owner/set", "owner/set: has several configurations; name one: owner/set:harmless, owner/set:helpful"),
        ("owner/set:harmles", "none called harmles; name one: owner/set:harmless"),
        ("owner/set:harmles:test", "no configuration harmles; there are harmless, .*; did you mean harmless"),
        ("owner/set:helpful:test", "there is no split test; there is train"),
        ("plain:tost", "plain:tost: there is no split tost; there are train, dev"),
        ("plain:train+tost", "there is no split tost"),
    ],
)
def test_what_there_is_not_is_said_before_anything_is_loaded(asked: Asked, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(read_rows(source))
    assert not asked


def test_a_folder_here_is_not_asked_of_a_hub(asked: Asked) -> None:
    (Path.cwd() / "owner" / "set").mkdir(parents=True)
    (Path.cwd() / "owner" / "set" / "a.jsonl").write_text('{"prompt": "here"}\n')
    assert [row.fields for row in read_rows("owner/set") if isinstance(row, Row)] == [{"prompt": "here"}]
    assert not asked


@pytest.mark.parametrize("source", ["/proc/no/rows", "./rows", "a/b/c", "https://example.com/rows", "rows.jsonl.gz"])
def test_what_can_be_no_id_is_not_asked_of_a_hub(asked: Asked, source: str) -> None:
    with pytest.raises(UserError, match=rf"{source}: no such file or folder \(looked in "):
        list(read_rows(source))
    assert not asked


def test_what_a_hub_says_is_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'owner/rows' on the Hub")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "get_dataset_split_names", unreachable)
    with pytest.raises(UserError, match="owner/rows: neither a file or folder here .* hub: ConnectionError: Couldn't"):
        list(read_rows("owner/rows"))
