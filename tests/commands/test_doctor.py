"""`sparsepo doctor --model.path`: which layouts are right of a model, by its configuration alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig, MixtralConfig, PretrainedConfig

from sparsepo_dist.commands.doctor import main
from tests.support.checked import LeakingConfig


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """By layout: what is said of it."""
    lines = capsys.readouterr().out.splitlines()
    layouts = ("prefix_shared", "packed", "padded")
    return {layout: line for line in lines for layout in layouts if line.startswith(layout)}


@pytest.mark.parametrize("config", [LlamaConfig(), MixtralConfig()])
def test_a_right_model_needs_no_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: PretrainedConfig
) -> None:
    config.save_pretrained(tmp_path)
    assert main(["--model.path", str(tmp_path)]) == 0
    found = rows(capsys)
    assert len(found) == 3 and all(" right, " in row for row in found.values())


def test_a_wrong_default_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    LeakingConfig(leak=True).save_pretrained(tmp_path)
    assert main(["--model.path", str(tmp_path)]) == 1
    found = rows(capsys)
    assert "WRONG" in found["prefix_shared"] and "WRONG" in found["packed"] and " right, " in found["padded"]


def test_what_is_no_decoder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model.path", str(tmp_path / "nowhere")]) == 2
    assert "model.path" in capsys.readouterr().err
