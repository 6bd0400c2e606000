"""Folders: what they hold is found out or refused by name, and nothing is downloaded for them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from sparsepo_dist.data.reading import clones
from sparsepo_dist.data.reading.folders import files_within
from sparsepo_dist.data.reading.sources import Row, read_rows
from sparsepo_dist.errors import UserError
from tests.data.reading.forms import TEXT_ROWS, clone, configured, json_lines, parquet, separated, snapshot

LINES = json_lines(TEXT_ROWS)


def read(source: str | Path) -> list[Any]:
    return [row.fields for row in read_rows(str(source)) if isinstance(row, Row)]


def refused(source: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        read(source)
    return str(caught.value)


def filled(folder: Path, *names: str) -> Path:
    """A folder with files of the rows."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(separated(TEXT_ROWS) if name.endswith(".csv") else LINES)
    return folder


def test_configurations_and_splits(tmp_path: Path) -> None:
    source = configured(tmp_path, TEXT_ROWS)
    assert read(f"{source}:good:held") == TEXT_ROWS[:1] == read(f"{source}:other")
    assert read(f"{source}:good:train+held[-1:]") == [*TEXT_ROWS, TEXT_ROWS[0]]
    assert read(f"{source}:good[:2]") == TEXT_ROWS[:2]
    assert read(f"{source}:good:train[50%:]") == TEXT_ROWS[4:]
    told = refused(source)
    assert "has several configurations; name one" in told and f"{source}:good, {source}:other" in told
    assert "none called held" in refused(f"{source}:held")
    told = refused(f"{source}:god:train")
    assert "there is no configuration god; there are good, other; did you mean good?" in told
    assert "there is no split test; there are train, held" in refused(f"{source}:good:test")
    assert "write NAME:CONFIGURATION:SPLIT" in refused(f"{source}:a:b:c")


def test_one_name_is_a_split_of_the_default_configuration_or_a_configuration(tmp_path: Path) -> None:
    source = configured(tmp_path, TEXT_ROWS, default="good")
    assert read(f"{source}:held") == TEXT_ROWS[:1] and read(f"{source}:other:train") == TEXT_ROWS[:1]
    assert "there is no split tost; there are train, held" in refused(f"{source}:tost")


def test_splits_by_the_names_of_files(tmp_path: Path) -> None:
    assert read(f"{clone(tmp_path, TEXT_ROWS)}:test") == TEXT_ROWS[:1]
    flat = filled(tmp_path / "flat", "train.jsonl", "test.jsonl")
    assert read(flat) == TEXT_ROWS == read(f"{flat}:default:test")
    heldout = filled(tmp_path / "heldout", "test.jsonl")
    assert "there is no split train; there is test" in refused(heldout)
    told = refused(filled(tmp_path / "mixed", "train.jsonl", "more.jsonl"))
    assert "are the splits train, and more.jsonl is of none; name files by a glob" in told


def test_splits_of_a_saved_data_set(tmp_path: Path) -> None:
    one, two = Dataset.from_list(TEXT_ROWS), Dataset.from_list(TEXT_ROWS[:2])
    DatasetDict(fit=one, test=two).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved:test[1:]") == TEXT_ROWS[1:2] and read(tmp_path / "saved" / "fit") == TEXT_ROWS
    assert "there is no split train; there are fit, test" in refused(tmp_path / "saved")
    assert "saved by datasets.save_to_disk, and has no test" in refused(tmp_path / "saved" / "fit:test")
    (tmp_path / "saved" / "fit" / "data-00000-of-00001.arrow").write_bytes(b"no Arrow")
    assert "a damaged datasets folder" in refused(tmp_path / "saved" / "fit")


def test_a_folder_of_the_hubs_cache_names_its_snapshots(tmp_path: Path) -> None:
    commit = snapshot(tmp_path, TEXT_ROWS)
    assert f"a folder of the hub's cache; name the snapshot in it: {commit}" in refused(Path(commit).parents[1])


def test_files_of_several_kinds_or_of_none_are_named(tmp_path: Path) -> None:
    told = refused(filled(tmp_path / "two", "a.jsonl", "b.csv", "README.md", ".hidden.parquet"))
    assert "holds files of several kinds: .jsonl (a.jsonl), .csv (b.csv); name those of one, as in" in told
    assert f"{tmp_path}/two/*.jsonl" in told
    assert read(f"{tmp_path}/two/*.jsonl") == TEXT_ROWS
    assert "several kinds: .jsonl (a.jsonl), .jsonl.gz" in refused(filled(tmp_path / "twice", "a.jsonl", "a.jsonl.gz"))
    assert "no file of a kind that is read (.jsonl, " in refused(filled(tmp_path / "none", "a.bz2"))
    assert "only .bz2 (a.bz2)" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no file of a kind that is read" in refused(tmp_path / "empty")


def test_what_a_glob_finds_is_named(tmp_path: Path) -> None:
    filled(tmp_path, "a.jsonl", "b.csv", "c/d.jsonl", "e.txt")
    assert "no file matches (looked in" in refused(f"{tmp_path}/*.parquet")
    assert "several kinds" in refused(f"{tmp_path}/?.*")
    assert f"finds the folder {tmp_path}/c; name files" in refused(f"{tmp_path}/*")
    assert "no file of a kind that is read" in refused(f"{tmp_path}/*.txt")
    assert read(f"{tmp_path}/**/*.jsonl") == [*TEXT_ROWS, *TEXT_ROWS]


def test_scripts_are_not_run(tmp_path: Path) -> None:
    folder = filled(tmp_path / "rows", "train.jsonl")
    (folder / "rows.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "rows.py is a script that loads it, and scripts of data sets are not run; name its files" in refused(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            "configs:\n- config_name: a\n  data_files: https://example.com/a.jsonl\n",
            "names https://example.com/a.jsonl",
        ),
        ("configs:\n- config_name: a\n  data_files:\n  - {split: train, path: 'hf://datasets/o/n/a'}\n", "names hf://"),
        ("configs: [\n", "the YAML of its README.md cannot be read"),
        ("configs:\n- config_name: a\n  data_files: nowhere/*\n", "a damaged data set, or one that"),
    ],
)
def test_a_readme_that_cannot_be_followed(tmp_path: Path, header: str, words: str) -> None:
    folder = filled(tmp_path / "rows", "train.jsonl")
    (folder / "README.md").write_text(f"---\n{header}---\n")
    assert words in refused(folder)


def test_a_damaged_shard_of_a_clone(tmp_path: Path) -> None:
    source = Path(clone(tmp_path, TEXT_ROWS))
    (source / "data" / "train-00001-of-00002.parquet").write_bytes(parquet(TEXT_ROWS)[:200])
    assert "a damaged data set" in refused(source) and "Parquet" in refused(source)


def test_what_git_leaves_of_large_files_is_not_read(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4567\n"
    for source in (clone(tmp_path, TEXT_ROWS), configured(tmp_path, TEXT_ROWS) + ":good"):
        file = next(path for path in Path(source.removesuffix(":good")).rglob("train*"))
        file.write_bytes(pointer)
        assert f"{file}: git has left a pointer here, not the file; run `git lfs pull`" in refused(source)
        assert "git lfs pull" in refused(file)


def test_links_in_circles_end(tmp_path: Path) -> None:
    folder = filled(tmp_path / "rows", "a.jsonl")
    (folder / "again").symlink_to(folder, target_is_directory=True)
    assert read(folder) == TEXT_ROWS


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may look into any."""

    def closed(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    folder = filled(tmp_path / "rows", "a.jsonl")
    monkeypatch.setattr(Path, "iterdir", closed)
    assert f"{folder}: cannot be read: Permission denied" in refused(folder)


NAMED_LIKE_OTHER_FILES = (
    "a.jsonl", "citations.jsonl", "config.jsonl", "my_checksum_pairs.jsonl", "notices_x.jsonl", "state.jsonl",
)  # fmt: skip


def test_files_of_rows_are_read_whatever_their_names_begin_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = filled(tmp_path / "folder", *NAMED_LIKE_OTHER_FILES)
    assert read(folder) == read(f"{folder}/*.jsonl") == TEXT_ROWS * len(NAMED_LIKE_OTHER_FILES)
    assert not caplog.records


def test_what_is_passed_over_though_its_kind_is_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = filled(tmp_path / "folder", "rows.jsonl", "config.json", "dataset_info.json", "LICENSE")
    with caplog.at_level(logging.WARNING):
        assert read(folder) == TEXT_ROWS
    (record,) = caplog.records
    assert record.getMessage() == f"{folder}: passed over, as no data: config.json, dataset_info.json"


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, listed = clone(tmp_path, TEXT_ROWS), []
    monkeypatch.setattr(clones, "files_within", lambda path: (listed.append(path), files_within(path))[1])
    assert read(f"{folder}:test") == TEXT_ROWS[:1]
    assert listed == [Path(folder)]
