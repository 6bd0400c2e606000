"""Several processes make of a source what one makes of it, and refuse what one refuses."""

from __future__ import annotations

import hashlib
import os
from array import array
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store import workers
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.data.store.workers import ALONE, AT_ONCE
from sparsepo_dist.data.tokens.keys import pair_key
from sparsepo_dist.errors import RunError, UserError
from tests.data.store.sources import alone, good, templated, write

FIRST = ALONE * AT_ONCE
"""Rows before other processes are started."""


def messages(number: int, **more: Any) -> dict[str, Any]:
    """A row whose keys the template uses in part."""
    row = {name: [{"role": "assistant", "content": f"{name} {number}"}] for name in ("chosen", "rejected")}
    return {**row, "prompt": [{"role": "user", "content": str(number), **more}], "extra": number}


def mixed(rows: int) -> list[Any]:
    """Good rows; in each hundred, one bad for reading, one for checking, one for tokens, one long, one that crosses."""
    found: list[Any] = [good(number) for number in range(rows)]
    for start in range(0, rows, 100):
        found[start + 3] = "{"
        found[start + 4] = {**good(start), "chosen": " ", "column": start}
        found[start + 5] = {**good(start), "chosen": "s" * 70, "rejected": "s" * 71}
        found[start + 6] = {**good(start), "prompt": "p" * 90}
    return found


def old_fingerprint(pairs: Any) -> str:
    """As checkpoints of earlier versions have it."""
    digest = hashlib.sha256()
    for pair in pairs:
        for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(array("q", ids).tobytes())
        if pair.chosen_trained or pair.rejected_trained:
            digest.update(repr((pair.chosen_trained, pair.rejected_trained)).encode())
        digest.update(repr(pair.scores).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("kind", ["texts", "chats"])
def test_several_processes_make_what_one_makes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, processes: int
) -> None:
    rows = mixed(FIRST + 430)
    if kind == "chats":
        rows = [messages(n, **({"name": "x"} if n % 3 else {"weight": 1})) for n in range(FIRST + 430)]
        rows[FIRST + 100]["chosen"][0]["tool_calls"] = [{"function": {"name": "f"}}]
    source = write(tmp_path / "rows.jsonl", rows)
    config = DataConfig(
        max_length=64, max_prompt_length=32, on_bad_row="skip", workers=processes, cache=str(tmp_path / "cache")
    )
    want = alone(source, templated(), config)
    for _ in range(2):  # made, then found
        caplog.clear()
        found = load_tokenized(source, templated(), config, progress=True)
        assert list(found) == want.pairs and [pair.place for pair in found] == [pair.place for pair in want.pairs]
        said = [record.getMessage() for record in caplog.records if record.name.startswith("sparsepo_dist")]
        assert said == [f"{source}: {text}" for text in (f"{len(found)} pairs kept", *want.remarks)]
    assert found.fingerprint() == old_fingerprint(want.pairs)
    assert found.keys().tolist() == [pair_key(pair) for pair in want.pairs]
    assert found.highest_id() == max(max(p.prompt_ids + p.chosen_ids + p.rejected_ids) for p in want.pairs)


BAD = {
    "reading": "{",
    "checking": {**good(0), "chosen": ""},
    "tokens": {**good(0), "chosen": "s" * 70, "rejected": "s" * 71},
}


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("place", [5, FIRST + 7, FIRST + 3 * AT_ONCE - 1])
@pytest.mark.parametrize("first", BAD)
def test_the_first_bad_row_is_the_one_that_is_named(tmp_path: Path, first: str, place: int, processes: int) -> None:
    rows: list[Any] = [good(number) for number in range(FIRST + 5 * AT_ONCE)]
    others = [bad for name, bad in BAD.items() if name != first]
    rows[place : place + 3] = [BAD[first], *others]
    rows[-1] = "{"
    source = write(tmp_path / "rows.jsonl", rows)
    config = DataConfig(max_length=64, max_prompt_length=32, workers=processes, cache=str(tmp_path / "cache"))
    with pytest.raises(UserError) as want:
        alone(source, templated(), config)
    with pytest.raises(UserError) as found:
        load_tokenized(source, templated(), config)
    assert str(found.value) == str(want.value) and f"rows.jsonl, row {place + 1}: " in str(found.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_process_that_is_killed_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "rows.jsonl", [good(number) for number in range(FIRST + 4 * AT_ONCE)])
    parent, tokenize_row = os.getpid(), workers.tokenize_row

    def killed(*arguments: Any) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), 9)
        return tokenize_row(*arguments)

    monkeypatch.setattr(workers, "tokenize_row", killed)
    config = DataConfig(workers=2, cache=str(tmp_path / "cache"))
    with pytest.raises(RunError, match=r"was killed, perhaps because memory is short.*--data.workers 1"):
        load_tokenized(source, templated(), config)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    monkeypatch.undo()
    assert len(load_tokenized(source, templated(), config)) == FIRST + 4 * AT_ONCE
