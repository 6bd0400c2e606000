"""Bad input: how a case of the table becomes files and a command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch


@dataclass
class Case:
    """One mistake. `{models}` in a field's value is the folder of the models that are sound."""

    name: str
    words: tuple[str, ...]
    """All in the message: the field, file or row, and what to do."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Dotted fields, beside those of a sound run."""
    recipe: str | bytes | None = None
    rows: tuple[str, bytes] | None = None
    """Name and content of the file of pairs."""
    ds: Any = None
    """The ds_config's content: JSON value or bytes."""
    damage: Callable[[Path], None] | None = None
    """What happens to a copy of the policy's model."""
    role: str = "model"
    """Whose model that copy is."""


def jsonl(*rows: Any) -> tuple[str, bytes]:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return "rows.jsonl", b"\n".join(lines) + b"\n"


def parquet(rows: list[dict[str, Any]], keep: int | None = None, names: list[str] | None = None) -> tuple[str, bytes]:
    """Rows with columns of other names where `names` has them; only the first bytes where `keep` says so."""
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table if names is None else table.rename_columns(names), sink)
    return "rows.parquet", sink.getvalue().to_pybytes()[:keep]


def changed(name: str = "config.json", **values: Any) -> Callable[[Path], None]:
    """Overwrite entries of a JSON file."""

    def damage(model: Path) -> None:
        found = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps({**found, **values}))

    return damage


def rewritten(name: str, content: bytes | int | None) -> Callable[[Path], None]:
    """Another content for a file, its first bytes only, or no such file."""

    def damage(model: Path) -> None:
        file = model / name
        if isinstance(content, int):
            file.write_bytes(file.read_bytes()[:content])
        elif content is None:
            file.unlink()
        else:
            file.write_bytes(content)

    return damage


def index_without_files(model: Path) -> None:
    (model / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def as_pickle_garbage(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04garbage")


class _Shout:
    """What is unpickled of it is a call."""

    def __reduce__(self) -> Any:
        return (print, ("code was run",))


def as_pickled_code(model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"lm_head.weight": _Shout()}, model / "pytorch_model.bin")


def with_adapter_files(model: Path) -> None:
    (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (model / "adapter_model.safetensors").write_bytes(b"")


def of_another_model(model: Path) -> None:
    """Another tokenizer: two tokens have each other's ids."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["!"], vocabulary["?"] = vocabulary["?"], vocabulary["!"]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))


def zero(stage: Any = 2, **fields: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, **fields}}


def at(path: str, value: Any) -> dict[str, Any]:
    """A ds_config that holds one value, where a dotted path says."""
    for name in reversed(path.split(".")):
        value = {name: value}
    found: dict[str, Any] = value
    return found


def adamw(**params: Any) -> dict[str, Any]:
    return {**zero(), "optimizer": {"type": "AdamW", "params": {"torch_adam": True, **params}}}


def place(case: Case, inputs: Path, models: Path) -> list[str]:
    """Write a case's files; the command line's arguments."""
    fields: dict[str, Any] = {
        "model.path": models / "policy", "data.train": models / "pairs.jsonl", "ds_config": models / "ds.json",
        "data.max_length": 100, "objective.name": "sparsepo",
    }  # fmt: skip
    if case.rows is not None:
        (inputs / case.rows[0]).write_bytes(case.rows[1])
        fields["data.train"] = inputs / case.rows[0]
    if case.ds is not None:
        fields["ds_config"] = inputs / "ds.json"
        content = case.ds if isinstance(case.ds, bytes) else json.dumps(case.ds).encode()
        fields["ds_config"].write_bytes(content)
    if case.damage is not None:
        fields[f"{case.role}.path"] = shutil.copytree(models / "policy", inputs / "damaged")
        case.damage(inputs / "damaged")
    if case.recipe is not None:
        fields["recipe"] = inputs / "recipe.yaml"
        fields["recipe"].write_bytes(case.recipe if isinstance(case.recipe, bytes) else case.recipe.encode())
    for name, value in case.fields.items():
        fields[name] = str(value).replace("{models}", str(models)).replace("{inputs}", str(inputs))
    return [f"--{name}={value}" for name, value in fields.items()]
