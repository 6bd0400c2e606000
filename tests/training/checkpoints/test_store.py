"""Checkpoints as folders: a reader never sees half of one, damage is found, the right ones are kept."""

from __future__ import annotations

import errno
import json
import pickle
import socket
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import SafetensorError

from sparsepo_dist.disk import remove, sha256, unwritten
from sparsepo_dist.engines.deepspeed.persistence import only_tensors
from sparsepo_dist.errors import RunError, UserError, unreadable
from sparsepo_dist.training.checkpoints.checkpointer import Checkpointer, _files_of_all
from sparsepo_dist.training.checkpoints.config import CheckpointConfig
from sparsepo_dist.training.checkpoints.store import COMPLETE, MANIFEST, CheckpointStore, open_checkpoint
from tests.support.tampering import Trap

STATE = {"config": {}, "data": {}, "zero_stage": 2, "world_size": 2, "trainer": {}}
DEEP = '{"a":' + "[" * 100_000


def write(store: CheckpointStore, step: int, *, publish: bool = True) -> Path:
    """A checkpoint of two parts."""
    pending = store.begin(step)
    (pending / "engine").mkdir()
    files = [pending / "state.json", pending / "engine" / "weights"]
    files[0].write_text(json.dumps({"step": step, **STATE}))
    files[1].write_bytes(bytes(range(256)) * 50)
    store.digest(step, files[:1], 0)
    assert not store.digested(step, 2)
    store.digest(step, files[1:], 1)
    assert store.digested(step, 2)
    return store.publish(step, 2).folder if publish else pending


def test_only_published_checkpoints_are_seen(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.complete() == []
    write(store, 3)
    write(store, 12)
    pending = write(store, 20, publish=False)
    assert [checkpoint.step for checkpoint in store.complete()] == [12, 3]
    assert all(checkpoint.damage() is None for checkpoint in store.complete())
    assert sorted(path.name for path in store.complete()[0].folder.iterdir()) == [
        COMPLETE, "engine", MANIFEST, "state.json",
    ]  # fmt: skip
    store.begin(21)  # clears what an interrupted writer left
    assert not pending.exists()
    (tmp_path / "step-00000012" / COMPLETE).unlink()
    assert [checkpoint.step for checkpoint in store.complete()] == [3]


def test_what_is_left_is_what_is_there(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.left() == "There is no complete checkpoint: --resume auto starts from the beginning"
    write(store, 3)
    write(store, 5, publish=False)
    assert store.left() == "The checkpoint of step 3 is complete, go on with --resume auto"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), True),
        (OSError(errno.ENOENT, "No such file or directory"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
        (SafetensorError("I/O error: Input/output error (os error 5)"), False),
    ],
)
def test_only_a_full_disk_is_told_to_make_room(tmp_path: Path, error: Exception, full: bool) -> None:
    told = unwritten(error, tmp_path)
    assert ("make room" in told) == full and str(tmp_path) in told and str(error) in told
    gone = unwritten(error, tmp_path / "gone")
    assert "make room" not in gone and f"it is not there on {socket.gethostname()}" in gone


def test_the_same_step_again_replaces(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first = write(store, 3)
    (first / "stale").write_text("")
    assert not (write(store, 3) / "stale").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "engine" / "weights").write_bytes(b"\0"), "1 bytes instead of 12800"),
        (lambda folder: (folder / "engine" / "weights").write_bytes(b"\1" * 12800), "has changed since"),
        (lambda folder: (folder / "engine" / "weights").unlink(), "is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), f"{MANIFEST} has changed"),
        (lambda folder: (folder / MANIFEST).write_text("{"), f"{MANIFEST} cannot be read"),
        (lambda folder: (folder / MANIFEST).unlink(), f"{MANIFEST} cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text(DEEP), f"{MANIFEST} cannot be read (nested too deeply)"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), f"{MANIFEST} holds a list"),
        (lambda folder: (folder / MANIFEST).write_text('{"state.json": 3}'), f"{MANIFEST} has no size and checksum of"),
        (lambda folder: (folder / MANIFEST).write_text('{"state.json": {"bytes": 3}}'), f"{MANIFEST} has no size and"),
        (lambda folder: sealed(folder, "{}", listed=False), f"{MANIFEST} has no size and checksum of state.json"),
        (lambda folder: sealed(folder, "[]"), "state.json holds a list, no object"),
        (lambda folder: sealed(folder, DEEP), "state.json cannot be read (nested too deeply)"),
        (lambda folder: sealed(folder, "{}"), "state.json has nothing for step"),
        (lambda folder: sealed(folder, json.dumps({"step": 3, **STATE, "data": []})), "state.json has a list for data"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage: Any, words: str) -> None:
    folder = write(CheckpointStore(tmp_path), 3)
    damage(folder)
    assert words in str(open_checkpoint(folder).damage())


def sealed(folder: Path, state: str, *, listed: bool = True) -> None:
    """Another state.json, to which manifest and marker fit."""
    (folder / "state.json").write_text(state)
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = manifest.pop("state.json")
    if listed:
        manifest["state.json"] = {**entry, "bytes": len(state), "sha256": sha256(folder / "state.json")}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / COMPLETE).write_text(sha256(folder / MANIFEST))


def test_a_state_is_not_believed_that_is_not_what_was_written(tmp_path: Path) -> None:
    folder = write(CheckpointStore(tmp_path), 3)
    assert open_checkpoint(folder).state()["step"] == 3
    (folder / "state.json").write_text(json.dumps({"step": 4, **STATE}))
    with pytest.raises(ValueError, match="state.json has changed since it was written"):
        open_checkpoint(folder).state()


def test_ranks_share_the_reading(tmp_path: Path) -> None:
    folder = write(CheckpointStore(tmp_path), 3)
    (folder / "state.json").write_text("{}")
    found = [open_checkpoint(folder).damage(part, 2) for part in range(2)]
    assert [damage is not None for damage in found] == [False, True]


def test_names_in_a_manifest_cannot_leave_the_checkpoint(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("private")
    folder = write(CheckpointStore(tmp_path / "checkpoints"), 3)
    for name in ("../../outside", str(outside)):
        entry = {"bytes": 7, "sha256": sha256(outside)}
        (folder / MANIFEST).write_text(json.dumps({name: entry}))
        (folder / COMPLETE).write_text(sha256(folder / MANIFEST))
        assert "lies outside the checkpoint" in str(open_checkpoint(folder).damage())


def test_what_is_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3, 4):
        write(store, step)
    (tmp_path / "step-00000000").mkdir()  # an interrupted removal
    store.prune(keep_last=1, best=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


def test_links_to_checkpoints_are_not_followed_when_they_go(tmp_path: Path) -> None:
    """A checkpoint may be moved to another disk, and read through a link; it is not the run's to remove."""
    away = write(CheckpointStore(tmp_path / "away"), 1)
    store = CheckpointStore(tmp_path / "checkpoints")
    store.folder.mkdir()
    for name in (away.name, "step-00000000", ".writing-step-00000007"):
        (store.folder / name).symlink_to(away if name == away.name else tmp_path / "away" / "nothing")
    (store.folder / ".writing-step-00000008").symlink_to(away)
    assert [checkpoint.damage() for checkpoint in store.complete()] == [None]
    assert write(store, 1).is_dir() and not (store.folder / away.name).is_symlink()
    remove(store.folder / away.name)
    (store.folder / away.name).symlink_to(away)
    for step in (2, 3):
        write(store, step)
    store.prune(keep_last=2, best=None)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step-00000002", "step-00000003"]
    assert open_checkpoint(away).damage() is None


def test_newer_checkpoints_are_kept_aside(tmp_path: Path) -> None:
    """After going on from an older one, what is written now must be the newest, and must not be pruned."""
    store = CheckpointStore(tmp_path)
    for step in (95, 100):
        write(store, step)
    assert [path.name for path in store.retire_after(95)] == ["retired-step-00000100-0"]
    write(store, 97)
    store.prune(keep_last=1, best=None)
    assert [checkpoint.step for checkpoint in store.complete()] == [97]
    write(store, 100)
    assert [path.name for path in store.retire_after(99)] == ["retired-step-00000100-1"]
    assert store.retire_after(99) == []


def test_a_rank_whose_part_fails_is_not_waited_for(tmp_path: Path) -> None:
    failed: Future[None] = Future()
    failed.set_exception(OSError("No space left on device"))
    checkpointer = Checkpointer(cast(Any, None), tmp_path, CheckpointConfig())
    with pytest.raises(OSError, match="No space left"):
        checkpointer._publish(3, None, failed)


def test_files_that_another_rank_is_about_to_rename_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    for name in ("state.json", "engine/weights", ".tmpn6WhEX"):
        (tmp_path / name).write_text("")
    assert _files_of_all(tmp_path) == ["engine/weights", "state.json"]


@pytest.mark.parametrize(("best_is", "wanted"), [("lowest", [True, False, True]), ("highest", [True, True, False])])
def test_the_best_evaluation(tmp_path: Path, best_is: Any, wanted: list[bool]) -> None:
    config = CheckpointConfig(keep_best="loss", best_is=best_is)
    checkpointer = Checkpointer(cast(Any, None), tmp_path, config)
    assert not checkpointer.evaluated(0, {"loss": 0.0})  # nothing is trained yet
    assert [checkpointer.evaluated(step, {"loss": value}) for step, value in ((2, 0.5), (4, 0.6), (6, 0.4))] == wanted
    assert not checkpointer.evaluated(7, {"loss": float("nan")})
    with pytest.raises(RunError, match=r"evaluations have no 'loss'; they have kl, rewards"):
        checkpointer.evaluated(8, {"kl": 1.0, "rewards": 2.0})


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="no complete checkpoint"):
            open_checkpoint(folder)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    file, sprung = tmp_path / "states.pt", tmp_path / "sprung"
    torch.save({"weights": torch.ones(2), "more": Trap(sprung)}, file)
    with only_tensors(), pytest.raises(pickle.UnpicklingError) as refused:
        torch.load(file, weights_only=False)
    told = unreadable(refused.value)
    assert "may be code: it was not unpickled" in told and "weights_only" not in told
    assert not sprung.exists()
    torch.load(file, weights_only=False)
    assert sprung.exists()  # the trap works
