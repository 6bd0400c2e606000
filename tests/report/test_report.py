"""A report from a run's files: complete, self-contained, safe, and honest about what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from matplotlib.image import imread

from sparsepo_dist.commands.report import main as report
from sparsepo_dist.errors import UserError
from sparsepo_dist.report.heatmap import token_colour
from sparsepo_dist.report.pages.build import build_report, try_report
from sparsepo_dist.report.reading import read_run


def test_everything_is_drawn(run: Path) -> None:
    names = {path.name for path in build_report(run)}
    assert names == {
        "loss.png", "rewards.png", "token_kl.png", "sparsity.png", "index.html", "README.md",
    }  # fmt: skip
    picture = imread(run / "report" / "rewards.png")
    assert picture.shape[1] > 700 and picture.std() > 0.01


def test_colours_are_symmetric_and_zero_is_white() -> None:
    assert token_colour(0.0, 3.0, signed=True) == token_colour(0.0, 0.0, signed=False) == (255, 255, 255)
    assert token_colour(3.0, 3.0, signed=True) != token_colour(-3.0, 3.0, signed=True)
    assert token_colour(9.0, 3.0, signed=True) == token_colour(3.0, 3.0, signed=True)


def test_results_and_interval_are_stated(run: Path) -> None:
    build_report(run)
    for path in (run / "report" / "index.html", run / "final" / "README.md"):
        text = path.read_text()
        assert "+0.300" in text and "[+0.200, +0.400]" in text


def test_model_card_has_the_hubs_front_matter(run: Path) -> None:
    (run / "final" / "masks.safetensors").write_bytes(b"")
    build_report(run)
    card = (run / "final" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "base/model" and "sparsepo" in front["tags"]
    assert "masks.safetensors" in card and "4 of 4 pairs" in card


def test_model_card_says_how_prompts_were_rendered(run: Path) -> None:
    build_report(run)
    assert "apply_chat_template" not in (run / "final" / "README.md").read_text()
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"chat_template_kwargs": {"enable_thinking": False}, "add_bos": True}
    path.write_text(yaml.safe_dump(config))
    build_report(run)
    card = (run / "final" / "README.md").read_text()
    assert (
        "`apply_chat_template(..., **{'enable_thinking': False})`" in card and "BOS: in front of every prompt" in card
    )


def test_a_killed_runs_half_line_is_left_out_and_other_damage_is_named(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"step": 5, "spl')
    assert build_report(run)
    metrics.write_text("{broken\n" + whole)
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1"):
        build_report(run)


def test_a_report_that_cannot_be_written_is_a_message_and_a_warning_after_a_run(
    run: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert try_report(run) and not caplog.text
    shutil.rmtree(run / "report")
    (run / "report").write_text("")
    assert report([str(run)]) == 2
    assert f"error: {run / 'report'} cannot be written: File exists" in capsys.readouterr().err
    assert not try_report(run)
    assert f"the run is finished, without a report: {run / 'report'} cannot be written" in caplog.text
    (run / "tokens.jsonl").write_text("[]\n")
    (run / "report").unlink()
    assert not try_report(run), "whatever a damaged file makes of a page"
    assert f"`sparsepo report {run}` draws it again" in caplog.text


def test_skipped_steps_leave_a_gap(run: Path) -> None:
    """Where loss or gradient were not finite, metrics.jsonl has null."""
    file = run / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[2]["loss"] = rows[-1]["loss"] = None
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(run).series("loss", "train")[0] == [1, 3, 4]
    build_report(run)
    assert "Held-out loss" not in (run / "final" / "README.md").read_text()


def test_parts_that_were_not_written_are_left_out(run: Path) -> None:
    for name in ("tokens.jsonl", "evaluation.json"):
        (run / name).unlink()
    (run / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 0.5}\n')
    assert {path.name for path in build_report(run)} == {"loss.png", "index.html", "README.md"}


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run's folder"):
        build_report(tmp_path)


def test_nothing_is_written_through_a_link(run: Path) -> None:
    (run / "report").mkdir()
    links = [run / name for name in ("report/loss.png", "report/index.html", "final/README.md")]
    outside = [run.parent / link.name for link in links]
    for link, file in zip(links, outside, strict=True):
        file.write_text("kept")
        link.symlink_to(file)
    build_report(run)
    assert all(file.read_text() == "kept" for file in outside)
    assert all(link.is_file() and not link.is_symlink() for link in links)


@pytest.mark.parametrize("name", ["report", "final"])
def test_nothing_is_written_through_a_link_to_a_folder(run: Path, name: str) -> None:
    outside = run.parent / "outside"
    outside.mkdir()
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(outside)
    with pytest.raises(UserError, match=f"{name} is a symbolic link, to .*outside: nothing is written through it"):
        build_report(run)
    assert not list(outside.iterdir())
    assert name == "report" or not (run / "report").exists()
