"""The same rows in every form in which people have them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
from datasets import Dataset, DatasetDict

Rows = Sequence[Mapping[str, Any]]

TEXT_ROWS: list[dict[str, Any]] = [
    {
        "prompt": f'How was "it", {number}?\nSay — please', "chosen": f" Fine, é\t{number}", "rejected": " [Bad]\r\n.",
        "chosen_score": number + 0.5, "rejected_score": -1.0,
    }
    for number in range(7)
]  # fmt: skip
CHAT_ROWS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "system", "content": "Be, \"brief\""}, {"role": "user", "content": f"Name {number}"}],
        "chosen": [{"role": "assistant", "content": "A\nB"}], "rejected": [{"role": "assistant", "content": "[C]"}],
    }
    for number in range(5)
]  # fmt: skip


def json_lines(rows: Rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def separated(rows: Rows, delimiter: str = ",") -> bytes:
    """As Excel writes it: quotes where they are needed, and a byte order mark; messages as JSON."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([json.dumps(value) if isinstance(value, list) else value for value in row.values()])
    return text.getvalue().encode("utf-8-sig")


def zstandard(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def parquet(rows: Rows) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink, row_group_size=3)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def arrow(rows: Rows, *, stream: bool = False) -> bytes:
    sink, table = pyarrow.BufferOutputStream(), pyarrow.Table.from_pylist(list(rows))
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _file(name: str, content: Callable[[Rows], bytes]) -> Callable[[Path, Rows], str]:
    def write(folder: Path, rows: Rows) -> str:
        (folder / name).write_bytes(content(rows))
        return str(folder / name)

    return write


def shards(folder: Path, rows: Rows) -> str:
    """Two files and what lies beside files."""
    shards = folder / "shards"
    shards.mkdir()
    (shards / "part-0.jsonl.gz").write_bytes(gzip.compress(json_lines(rows[:2])))
    (shards / "part-1.jsonl.gz").write_bytes(gzip.compress(json_lines(rows[2:])))
    for name in (".gitattributes", "README.md", "LICENSE", "SHA256SUMS", "part-0.jsonl.gz.md5", "_SUCCESS"):
        (shards / name).write_text("no rows")
    return str(shards)


def glob(folder: Path, rows: Rows) -> str:
    for number in (0, 1):
        (folder / f"rows-{number}").mkdir()
    (folder / "rows-1" / "a.csv").write_bytes(separated(rows[3:]))
    (folder / "rows-0" / "b.csv").write_bytes(separated(rows[:3]))
    return str(folder / "rows-*" / "?.csv")


def saved(folder: Path, rows: Rows) -> str:
    Dataset.from_list(list(rows)).save_to_disk(folder / "saved")
    return str(folder / "saved")


def saved_split(folder: Path, rows: Rows) -> str:
    DatasetDict(train=Dataset.from_list([{"a": 1}]), dev=Dataset.from_list(list(rows))).save_to_disk(folder / "saved")
    return f"{folder / 'saved'}:dev"


def clone(folder: Path, rows: Rows) -> str:
    """As `push_to_hub` leaves it: shards of splits in data/."""
    data = folder / "clone" / "data"
    data.mkdir(parents=True)
    (data / "train-00000-of-00002.parquet").write_bytes(parquet(rows[:4]))
    (data / "train-00001-of-00002.parquet").write_bytes(parquet(rows[4:]))
    (data / "test-00000-of-00001.parquet").write_bytes(parquet(rows[:1]))
    (folder / "clone" / "README.md").write_text("---\nlicense: mit\n---\n# Rows\n")
    return str(folder / "clone")


def configured(folder: Path, rows: Rows, default: str = "") -> str:
    """Two configurations of two splits."""
    for name, part in (("good", rows), ("other", rows[:1])):
        (folder / "hub" / name).mkdir(parents=True)
        (folder / "hub" / name / "train.jsonl").write_bytes(json_lines(part))
        (folder / "hub" / name / "held.jsonl").write_bytes(json_lines(part[:1]))
    files = "  data_files:\n  - {{split: train, path: {0}/train*}}\n  - {{split: held, path: {0}/held*}}\n"
    configurations = [f"- config_name: {name}\n{files.format(name)}" for name in ("good", "other")]
    configurations = [text + ("  default: true\n" if default in text and default else "") for text in configurations]
    (folder / "hub" / "README.md").write_text(f"---\nconfigs:\n{''.join(configurations)}---\n")
    return str(folder / "hub")


def snapshot(folder: Path, rows: Rows) -> str:
    """As the hub's client keeps a data set: links to blobs that have no suffix."""
    root = folder / "datasets--owner--rows"
    commit = root / "snapshots" / "0123abcd"
    (commit / "data").mkdir(parents=True)
    (root / "blobs").mkdir()
    for number, part in enumerate((rows[:4], rows[4:])):
        (root / "blobs" / f"blob{number}").write_bytes(parquet(part))
        name = f"train-0000{number}-of-00002.parquet"
        (commit / "data" / name).symlink_to(f"../../../blobs/blob{number}")
    return str(commit)


FORMS: dict[str, Callable[[Path, Rows], str]] = {
    "rows.jsonl": _file("rows.jsonl", json_lines),
    "rows.JSONL": _file("rows.JSONL", json_lines),
    "rows.json": _file("rows.json", lambda rows: json.dumps(rows).encode()),
    "rows.csv": _file("rows.csv", separated),
    "rows.tsv": _file("rows.tsv", lambda rows: separated(rows, "\t")),
    "rows.jsonl.gz": _file("rows.jsonl.gz", lambda rows: gzip.compress(json_lines(rows))),
    "rows.json.gz": _file("rows.json.gz", lambda rows: gzip.compress(json.dumps(rows).encode())),
    "rows.csv.GZ": _file("rows.csv.GZ", lambda rows: gzip.compress(separated(rows))),
    "rows.jsonl.zst": _file("rows.jsonl.zst", lambda rows: zstandard(json_lines(rows))),
    "two frames": _file("rows.jsonl.zst", lambda rows: b"".join(zstandard(json_lines([row])) for row in rows)),
    "rows.Parquet": _file("rows.Parquet", parquet),
    "rows.arrow": _file("rows.arrow", arrow),
    "arrow stream": _file("rows.arrow", lambda rows: arrow(rows, stream=True)),
    "shards": shards,
    "glob": glob,
    "save_to_disk": saved,
    "a split of save_to_disk": saved_split,
    "clone": clone,
    "configuration": lambda folder, rows: f"{configured(folder, rows)}:good",
    "default configuration": lambda folder, rows: configured(folder, rows, "good"),
    "snapshot": snapshot,
}  # fmt: skip
