"""Bad input gives one message with the remedy and exit code 2, before ranks wait for each other, and writes nothing."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, BertConfig, T5Config

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.engines.adapters.files import save_adapter
from sparsepo_dist.engines.adapters.lora import add_adapters
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.run import run
from tests.support.bad_input_table import TABLE
from tests.support.bad_inputs import Case, place
from tests.support.tiny import save_tiny_model, tiny_config, tiny_tokenizer, write_pairs

LONGEST_MESSAGE = 1500


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is sound: models of several kinds, adapters, pairs, a ds_config."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "policy")
    save_tiny_model(folder / "few", vocabulary=250)
    save_tiny_model(folder / "other", "gpt2", vocabulary=300)
    for name, config in (("bert", BertConfig()), ("t5", T5Config())):
        config.save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    _save_adapter(folder / "adapter", hidden_size=32)
    _save_adapter(folder / "wide_adapter", hidden_size=64)
    write_pairs(folder / "pairs.jsonl", 4)
    (folder / "ds.json").write_text(json.dumps({"bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 2}}))
    return folder


def _save_adapter(folder: Path, **shape: int) -> None:
    config = tiny_config("llama")
    config.update(shape)
    model = AutoModelForCausalLM.from_config(config)
    add_adapters(model, LoraSettings(rank=4), model.dtype, base="", start=None, reference=None)
    folder.mkdir()
    save_adapter(model, "policy", dict(model.named_parameters()), folder)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a case's files go; the run is started in a folder beside it, and must not get as far as the other ranks."""

    def joined(**_: object) -> None:
        pytest.fail("joined the ranks")

    monkeypatch.setattr(distributed, "initialise", joined)
    monkeypatch.setattr("sparsepo_dist.runs.run.prepare_environment", lambda: None)
    for name in ("inputs", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "inputs"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a run that is refused without a trace of it."""
    here = Path.cwd().parent
    before = sorted(here.rglob("*"))
    capsys.readouterr()
    assert guarded(lambda: run(parse_train(arguments))) == 2
    said = capsys.readouterr().err
    assert sorted(here.rglob("*")) == before
    assert "Traceback" not in said and "usage:" not in said and "\x1b" not in said
    messages = re.findall(r"^error: .*", said, re.MULTILINE | re.DOTALL)
    assert len(messages) == 1 and "\nerror: " not in messages[0]
    assert len(messages[0]) < LONGEST_MESSAGE
    return messages[0]


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_bad_input(case: Case, inputs: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(place(case, inputs, models), capsys)
    assert all(words in message for words in case.words), message


def test_sound_input_gets_as_far_as_the_other_ranks(inputs: Path, models: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="joined the ranks"):
        run(parse_train(place(Case("sound", ()), inputs, models)))


def test_output_folders_that_are_not_this_runs(inputs: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = place(Case("sound", ()), inputs, models)
    (inputs / "run").mkdir()
    (inputs / "run" / "config.yaml").write_text("")
    message = refused([*arguments, f"--output_dir={inputs / 'run'}"], capsys)
    assert "output_dir" in message and "is not empty" in message and "--resume auto" in message
    message = refused([*arguments, f"--output_dir={inputs / 'run' / 'config.yaml' / 'x'}"], capsys)
    assert "output_dir" in message and "is not a folder" in message
    message = refused([*arguments, f"--resume={inputs / 'run'}", "--output_dir=elsewhere"], capsys)
    assert "resume" in message and "is no complete checkpoint" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_folder(inputs: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = inputs / "run"
    folder.mkdir(mode=0o555)
    message = refused([*place(Case("sound", ()), inputs, models), f"--output_dir={folder / 'x'}"], capsys)
    assert "output_dir" in message and "no permission" in message
