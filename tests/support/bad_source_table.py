"""Bad input: sources of pairs that are no source, damaged, or do not go together."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow
import pyarrow.ipc

from tests.support.bad_inputs import Case, jsonl

ROW = {"prompt": "How was it?", "chosen": " Fine.", "rejected": " Bad."}
HEADER = b"prompt,chosen,rejected\n"


def _zstandard() -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(jsonl(*[ROW] * 50)[1])
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _arrow() -> bytes:
    sink, table = io.BytesIO(), pyarrow.Table.from_pylist([ROW] * 50)
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _listed(*entries: object) -> dict[str, str]:
    return {"data.train": json.dumps(entries)}


SOURCES = [
    Case("missing_file", ("nowhere.jsonl", "no such file"), {"data.train": "nowhere.jsonl"}),
    Case("missing_folder", ("/proc/no/rows: no such file or folder",), {"data.train": "/proc/no/rows"}),
    Case("no_match", ("*.jsonl: no file matches",), {"data.train": "{inputs}/*.jsonl"}),
    Case("empty_folder", ("no file of a kind that is read (.jsonl, .json, .csv or .tsv",), {"data.train": "{inputs}"}),
    Case("folder_of_no_data", ("holds files of several kinds", "model.safetensors"), {"data.train": "{models}/policy"}),
    Case("unknown_suffix", ("rows.txt", "expected a file of a kind that is read (.jsonl, .json, .csv or .tsv"),
         rows=("rows.txt", b"Hi")),
    Case("unknown_packing", ("rows.jsonl.bz2", ".gz, .zst behind it"), rows=("rows.jsonl.bz2", b"BZh9")),
    Case("split_of_a_file", ("pairs.jsonl is a file, and has no configuration or split test",),
         {"data.train": "{models}/pairs.jsonl:test"}),
    Case("empty_slice", ("pairs.jsonl[9:]: holds no rows",), {"data.train": "{models}/pairs.jsonl[9:]"}),
    Case("slice_of_percent", ("pairs.jsonl[:200%]: [:200%] is no slice", "write it as"),
         {"data.train": "{models}/pairs.jsonl[:200%]"}),
    Case("cut_gz", ("rows.jsonl.gz: a damaged .gz file",),
         rows=("rows.jsonl.gz", gzip.compress(jsonl(*[ROW] * 50)[1])[:-9])),
    Case("no_gz", ("rows.json.gz: a damaged .gz file", "Not a gzipped file"), rows=("rows.json.gz", b"[]")),
    Case("empty_gz", ("rows.jsonl.gz", "holds no rows"), rows=("rows.jsonl.gz", gzip.compress(b""))),
    Case("cut_zst", ("rows.jsonl.zst: a damaged .zst file",), rows=("rows.jsonl.zst", _zstandard()[:-9])),
    Case("no_zst", ("rows.jsonl.zst: a damaged .zst file",), rows=("rows.jsonl.zst", b"no frame of it")),
    Case("bomb", ("row 1: the line is longer than 64 MiB", "on_bad_row"),
         rows=("rows.jsonl.gz", gzip.compress(b"a" * 70_000_000, compresslevel=1))),
    Case("cut_arrow", ("rows.arrow: not an Arrow file",), rows=("rows.arrow", _arrow()[:-20])),
    Case("no_arrow", ("rows.arrow: not an Arrow file",), rows=("rows.arrow", b"no Arrow at all")),
    Case("csv_ragged", ("rows.csv, line 3: 2 cells, and the header has 3", "on_bad_row skip"),
         rows=("rows.csv", HEADER + b"a,b,c\na,b\n")),
    Case("csv_open_quote", ("rows.csv, line 2", "closed nowhere"), rows=("rows.csv", HEADER + b'a,b,"c\n')),
    Case("csv_twins", ("the column 'chosen' stands twice",), rows=("rows.csv", b"chosen,chosen\na,b\n")),
    Case("csv_no_name", ("column 2 has no name",), rows=("rows.csv", b"prompt,,rejected\na,b,c\n")),
    Case("csv_header_alone", ("rows.csv", "holds no rows"), rows=("rows.csv", HEADER)),
    Case("csv_null", ("rows.csv, line 2: rejected is null",), rows=("rows.csv", HEADER + b"a,b,\n")),
    Case("csv_semicolons", ("the header is one cell, 'prompt;chosen;rejected'", "its separator seems to be ';'"),
         rows=("rows.csv", HEADER.replace(b",", b";") + b"a;b;c\n")),
    Case("list_bad_source", ("nowhere.csv", "no such file"), _listed("{models}/pairs.jsonl", "nowhere.csv")),
    Case("list_unknown_field", ("data.train, entry 2", "weigth", "did you mean weight?"),
         _listed("a.jsonl", {"source": "b.jsonl", "weigth": 0.3})),
    Case("list_number", ("data.train, entry 2: a source, or an object with source, weight, pairs", "found 3"),
         _listed("a.jsonl", 3)),
    Case("list_no_source", ("data.train, entry 1: source must be the text of a source, found None",),
         _listed({"pairs": 3})),
    Case("list_weight_0", ("entry 1: weight must be a number greater than 0, found 0",),
         _listed({"source": "a.jsonl", "weight": 0})),
    Case("list_half_a_pair", ("entry 1: pairs must be a whole number of at least 1, found 0.5",),
         _listed({"source": "a.jsonl", "pairs": 0.5})),
    Case("list_pairs_and_weight", ("some entries have pairs, some a weight",),
         _listed({"source": "a.jsonl", "pairs": 5}, {"source": "b.jsonl", "weight": 5})),
    Case("list_weights_of_1", ("the weights leave nothing to entries without one",),
         _listed("a.jsonl", {"source": "b.jsonl", "weight": 1})),
    Case("list_twice", ("a.jsonl stands there twice",), _listed("a.jsonl", "a.jsonl")),
    Case("list_twice_otherwise", ("a.jsonl stands there twice, first as",), _listed("a.jsonl", "./a.jsonl")),
    Case("list_empty", ("data.train: the list is empty", "Write '[A.jsonl"), _listed()),
    Case("list_no_yaml", ("data.train", "is no list in YAML", "in quotes what holds brackets"),
         {"data.train": "[a.jsonl[:4], b.jsonl]"}),
    Case("list_more_than_there_is", ("pairs.jsonl: 5 pairs of it are wanted (pairs), and 4 are usable",),
         _listed({"source": "{models}/pairs.jsonl", "pairs": 5})),
    Case("list_too_little", ("its weight asks for less than one of its 4 pairs",),
         _listed({"source": "{models}/pairs.jsonl", "weight": 0.001}, "{models}/../models*/pairs.jsonl")),
    Case("list_in_recipe", ("recipe.yaml: line 3", "data.train, entry 2: pairs", "a whole number", "found 010"),
         recipe="data:\n  train: [a.jsonl,\n    {source: b.jsonl, pairs: 010}]\n"),
    Case("heldout_list", ("data.heldout: the list is empty",), {"data.heldout": "[]"}),
]  # fmt: skip
