"""Which folder a run may use, and what may change between two parts of it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.folder import CHECKPOINTS, LOCK, _appears, claim
from sparsepo_dist.runs.inputs import Inputs, load_inputs
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.resumption import VERSION, check_newest, check_same_run, find_checkpoint, identity, same_run
from sparsepo_dist.runs.run import run
from sparsepo_dist.training.checkpoints.store import Checkpoint, CheckpointStore
from tests.support.runs import ZERO
from tests.support.tampering import resigned
from tests.support.tiny import save_tiny_model, write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "ds.json").write_text(json.dumps(ZERO[2]))
    return {
        "model.path": save_tiny_model(folder / "model"), "data.train": write_pairs(folder / "pairs.jsonl", 12),
        "data.max_length": 100, "ds_config": folder / "ds.json",
    }  # fmt: skip


def inputs(data: dict[str, Any], **changes: Any) -> Inputs:
    fields = {**data, **{name.replace("__", "."): value for name, value in changes.items()}}
    return load_inputs(parse_train([f"--{name}={value}" for name, value in fields.items()]))


def checkpoint_of(loaded: Inputs, run: Path, step: int = 3) -> Checkpoint:
    """A complete checkpoint that says it belongs to a run; nothing else is in it."""
    store = CheckpointStore(run / CHECKPOINTS)
    state = store.begin(step) / "state.json"
    state.write_text(json.dumps({**identity(loaded, run), "step": step, "world_size": 1, "trainer": {}}))
    store.digest(step, [state], 0)
    return store.publish(step, 1)


def refused(checkpoint: Checkpoint, now: Inputs, *, changed_data: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        check_same_run(checkpoint, identity(now, checkpoint.folder), changed_data=changed_data)
    return str(caught.value)


def test_another_configuration_is_refused(data: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(inputs(data), tmp_path)
    told = refused(checkpoint, inputs(data, training__learning_rate=3e-5, objective__name="dpo"))
    assert "training.learning_rate is 3e-05 now and 1e-06 there" in told
    assert "objective.name is 'dpo' now and 'sparsepo' there" in told
    assert str(checkpoint.folder) in told and "start a new run" in told


DATED = (
    "{{ strftime_now('%d %B %Y %H:%M:%S') }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_a_template_that_prints_the_date_goes_on_with_the_day_the_run_began(
    data: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "dated.jinja").write_text(DATED)
    row = {"prompt": [{"role": "user", "content": "hi"}]}
    row |= {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    fields = {**data, "data.train": tmp_path / "rows.jsonl", "data.chat_template": tmp_path / "dated.jinja"}
    began = inputs(fields, data__date="2001-02-03T04:05:06")
    checkpoint = checkpoint_of(began, tmp_path / "run")
    later = inputs(fields, resume="auto", output_dir=tmp_path / "run")
    check_same_run(checkpoint, identity(later, tmp_path / "run"), changed_data=False)
    assert list(later.train) == list(began.train) != list(inputs(fields).train)


def test_another_configuration_is_refused_before_ranks_wait_for_each_other(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoint_of(inputs(data), tmp_path)
    monkeypatch.setattr("sparsepo_dist.runs.run.prepare_environment", lambda: None)
    monkeypatch.setattr("sparsepo_dist.runs.run.distributed.initialise", lambda **_: pytest.fail("it joined"))
    for resume in ("auto", str(checkpoint.folder)):
        fields = {**data, "resume": resume, "output_dir": tmp_path, "objective.name": "dpo"}
        with pytest.raises(UserError, match="objective.name is 'dpo' now and 'sparsepo' there"):
            run(configured(**fields))
    check_newest(inputs(data, resume="auto", output_dir=tmp_path))
    sound = json.loads((checkpoint.folder / "state.json").read_text())
    for damaged in ("[", "[]", "{}", '{"config": ' + "[" * 100_000, json.dumps({**sound, "config": {}, "data": []})):
        (checkpoint.folder / "state.json").write_text(damaged)
        check_newest(inputs(data, resume="auto", output_dir=tmp_path, objective__name="dpo"))


def rewritten(checkpoint: Checkpoint, change: Callable[[dict[str, Any]], Any]) -> Checkpoint:
    """The checkpoint as another version would have written it."""
    state = checkpoint.state()
    change(state)
    resigned(checkpoint.folder, "state.json", json.dumps(state))
    return checkpoint


def test_a_field_that_the_checkpoints_version_did_not_have_is_its_default(data: dict[str, Any], tmp_path: Path) -> None:
    def older(state: dict[str, Any]) -> None:
        del state["config"]["masks"]["dropout"], state["config"]["training"]["learning_rate"], state["config"]["lora"]
        state["version"] = VERSION + ".dev1"

    checkpoint = rewritten(checkpoint_of(inputs(data), tmp_path), older)
    check_same_run(checkpoint, identity(inputs(data), tmp_path), changed_data=False)
    told = refused(checkpoint, inputs(data, training__learning_rate=3e-5))
    assert "training.learning_rate is 3e-05 now and 1e-06 there, the default of what that version did not" in told
    assert f"It was written by sparsepo_dist {VERSION}.dev1" in told


def test_a_field_that_this_version_does_not_have_is_refused(data: dict[str, Any], tmp_path: Path) -> None:
    newer = rewritten(checkpoint_of(inputs(data), tmp_path), lambda state: state["config"]["masks"].update(sharp=True))
    assert f"masks.sharp is True there, which sparsepo_dist {VERSION} does not know" in refused(newer, inputs(data))


def test_versions_are_noted_and_another_major_one_is_refused(
    data: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = checkpoint_of(inputs(data), tmp_path)
    auto = inputs(data, resume="auto", output_dir=tmp_path)
    now = identity(auto, tmp_path)
    with patch.object(Checkpoint, "damage", lambda *_: None):
        assert same_run(auto, tmp_path, now) == checkpoint and not caplog.text
        for version, named in (
            ("0.0.9", "sparsepo_dist 0.0.9"),
            (None, "a sparsepo_dist that did not note its version"),
        ):
            rewritten(checkpoint, lambda state, version=version: state.update(version=version))
            assert same_run(auto, tmp_path, now) == checkpoint
            assert f"written by {named}; this is sparsepo_dist {VERSION}" in caplog.text
    rewritten(checkpoint, lambda state: state.pop("version"))
    assert check_newest(auto) == now
    rewritten(checkpoint, lambda state: state.update(version="7.1"))
    told = refused(checkpoint, inputs(data))
    assert f"was written by sparsepo_dist 7.1, this is sparsepo_dist {VERSION}" in told
    assert "install sparsepo_dist 7" in told


def test_another_stage_is_refused(data: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(inputs(data), tmp_path)
    (tmp_path / "ds.json").write_text(json.dumps(ZERO[3]))
    assert "ZeRO stage 2, the ds_config says 3" in refused(checkpoint, inputs(data, ds_config=tmp_path / "ds.json"))


def test_how_it_is_computed_and_watched_may_change(data: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(inputs(data), tmp_path)
    moved = tmp_path / "moved.jsonl"
    moved.write_text(Path(data["data.train"]).read_text().replace('"chosen":', '"good":'))
    now = inputs(
        data, data__train=moved, data__columns="{chosen: good}", data__format="preference",
        data__tokens_per_micro_batch=300, data__layout="packed", training__hang_minutes=3,
        checkpoints__every_steps=7, ops__backend="eager", training__evaluate_every=5, overwrite=True,
    )  # fmt: skip
    check_same_run(checkpoint, identity(now, tmp_path / "elsewhere"), changed_data=False)


def test_changed_data_is_refused_unless_that_is_said(data: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(inputs(data), tmp_path)
    lines = Path(data["data.train"]).read_text().splitlines(keepends=True)
    for name, changed in {
        "order": lines[::-1],
        "fewer": lines[:-1],
        "word": [*lines[:-1], lines[-1].replace('!"', '?"')],
    }.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(changed))
        now = inputs(data, data__train=file)
        told = refused(checkpoint, now)
        assert "data.train is not what" in told and "--resume_changed_data true" in told
        said = inputs(data, data__train=file, resume_changed_data=True).config.resume_changed_data
        check_same_run(checkpoint, identity(now, tmp_path), changed_data=said)


def test_data_that_is_gone_is_named(data: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file"):
        inputs(data, data__train=tmp_path / "gone.jsonl", resume="auto", output_dir=tmp_path)


def test_config_yaml_is_a_recipe_of_the_same_run(data: dict[str, Any], tmp_path: Path) -> None:
    first = inputs(data, masks__dropout=0.01, training__betas="[0.9, 0.95]")
    checkpoint = checkpoint_of(first, tmp_path)
    recipe = tmp_path / "config.yaml"
    recipe.write_text(yaml.safe_dump(identity(first, tmp_path)["config"], sort_keys=False))
    again = load_inputs(parse_train([f"--recipe={recipe}", "--resume=auto"]))
    check_same_run(checkpoint, identity(again, tmp_path), changed_data=False)


def test_the_newest_sound_checkpoint(data: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = inputs(data)
    for step in (1, 2, 3):
        checkpoint_of(loaded, tmp_path, step)
    folder = tmp_path / CHECKPOINTS
    (folder / "step-00000003" / "state.json").write_text("{}")
    found = find_checkpoint("auto", folder)
    assert found is not None and found.step == 2
    assert "step-00000003 is damaged: state.json has 2 bytes instead of" in caplog.text
    assert find_checkpoint(None, folder) is None
    assert find_checkpoint("auto", tmp_path / "nothing") is None
    with pytest.raises(UserError, match=r"step-00000003 is damaged: .*; name another, or say --resume auto"):
        find_checkpoint(str(folder / "step-00000003"), folder)


def configured(**fields: Any) -> Any:
    return parse_train([f"--{name}={value}" for name, value in fields.items()])


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    config = configured(output_dir=tmp_path / "run", resume="auto")
    folder, lock = claim(config)
    with pytest.raises(UserError, match=r"another run is at work in .*\(process \d+ on "):
        claim(config)
    lock.close()
    assert claim(config)[0] == folder


def test_a_look_at_the_lock_of_a_run_that_is_gone_does_not_stop_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(output_dir=tmp_path / "run", resume="auto")
    claim(config)[1].close()
    file = tmp_path / "run" / LOCK
    ended = subprocess.Popen(["true"])
    ended.wait()
    file.write_text(f"process {ended.pid} on {socket.gethostname()}\n")
    look = file.open()
    fcntl.flock(look, fcntl.LOCK_SH)
    monkeypatch.setattr("sparsepo_dist.runs.folder.time.sleep", lambda _: look.close())
    assert claim(config)[0] == tmp_path / "run"
    assert str(os.getpid()) in file.read_text()


def test_network_file_systems_are_given_time_to_show_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, and then a file in it, that only come with the second and the third look."""
    folder, late = tmp_path / "run", [lambda: (tmp_path / "run").mkdir(), lambda: (tmp_path / "run" / "token").touch()]
    now = iter(range(100))
    monkeypatch.setattr("sparsepo_dist.runs.folder.time.monotonic", lambda: next(now))
    monkeypatch.setattr("sparsepo_dist.runs.folder.time.sleep", lambda _: late.pop(0)() if late else None)
    assert _appears(folder, "token") and not late
    assert not _appears(folder, "another")
    assert next(now) > 65


def test_overwriting_removes_what_runs_write_and_nothing_else(tmp_path: Path) -> None:
    kept, gone = tmp_path / "notes.txt", [tmp_path / "metrics.jsonl", tmp_path / "checkpoints" / "step-1" / "file"]
    for path in (kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    outside = tmp_path.parent / "outside"
    private = outside / "step-00000002" / "COMPLETE"
    private.parent.mkdir(parents=True, exist_ok=True)
    private.write_text("private")
    for name in ("final", "checkpoints/step-00000002", "report/figures", "monitor", "hang-rank-0.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(outside)
    (tmp_path / "config.yaml").symlink_to(private)
    with pytest.raises(UserError, match=r"is not empty; go on with its run with --resume auto, start it anew with"):
        claim(configured(output_dir=tmp_path))
    assert all(path.exists() for path in gone)
    claim(configured(output_dir=tmp_path, overwrite=True))
    assert kept.exists() and private.read_text() == "private"
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, "notes.txt"]


def test_a_lock_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_text("private")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(private)
    with pytest.raises(UserError, match=r"run cannot be written: Too many levels of symbolic links"):
        claim(configured(output_dir=tmp_path / "run", overwrite=True))
    assert private.read_text() == "private"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"resume": "auto"}, "resume: auto needs --output_dir"),
        ({"resume": "nowhere/checkpoints/step-00000003"}, "is no complete checkpoint"),
        ({"resume": "auto", "output_dir": "x", "overwrite": True}, "choose one"),
    ],
)
def test_contradictions(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config = configured(**fields)
        config.validate()
        claim(config)
