"""A finished run on a hub: what goes there, what stays, and how refusals are said. The hub is one of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from sparsepo_dist.commands.push import main as command
from sparsepo_dist.errors import UserError
from sparsepo_dist.report.hub import push
from tests.support.hub import TOKEN, Hub, hub


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, its address and a token where users have them."""
    with hub() as one:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", one.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield one


@pytest.fixture
def finished(run: Path) -> Path:
    for name, content in (("model.safetensors", b"w" * 5000), ("masks.safetensors", b"m"), ("config.json", b"{}")):
        (run / "final" / name).write_bytes(content)
    return run


def test_model_masks_card_and_report_go_in_one_commit(
    server: Hub, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = finished / "final"
    for name in ("optimizer.pt", ".secret", "training_args.bin"):
        (final / name).write_bytes(b"x")
    (final / "link.json").symlink_to(finished / "config.yaml")
    states = finished / "checkpoints" / "step-4"
    states.mkdir(parents=True)
    (states / "zero_pp_rank_0_optim_states.pt").write_bytes(b"x")
    assert command([str(finished), "owner/name", "--private"]) == 0
    files = server.repositories["owner/name"]
    assert {name for name in files if not name.endswith(".png")} == {
        "model.safetensors", "masks.safetensors", "config.json", "README.md", "report/index.html",
    }  # fmt: skip
    for name in ("model.safetensors", "README.md"):
        assert files[name] == (final / name).read_bytes()
    assert files["report/index.html"] == (finished / "report" / "index.html").read_bytes()
    assert server.visibility == {"owner/name": "private"} and server.commits == ["Run run-1"]
    said = capsys.readouterr()
    assert f"{server.address}/owner/name/commit/" in said.out and TOKEN not in said.out + said.err
    assert command([str(finished), "owner/name"]) == 0 and len(server.commits) == 2, "again, into the same one"


def test_a_card_names_no_folder_of_this_machine_as_its_base(server: Hub, finished: Path) -> None:
    config = (finished / "config.yaml").read_text()
    (finished / "config.yaml").write_text(config.replace("base/model", str(finished)))
    assert command([str(finished), "owner/name"]) == 0
    card = server.repositories["owner/name"]["README.md"].decode()
    assert "base_model" not in card.split("---")[1] and str(finished) in card


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (401, "does not know the token"), (403, "the token may not write there"), (404, "there is no such repository"),
        (500, "no, Bearer (the token)"),
    ],
)  # fmt: skip
def test_refusals_are_said_without_the_token(server: Hub, finished: Path, code: int, words: str) -> None:
    server.refuses = code
    with pytest.raises(UserError) as refused:
        push(finished, "owner/name", private=False)
    said = str(refused.value)
    assert said.startswith(f"{server.address} refused owner/name ({code}): ") and words in said and TOKEN not in said


def test_what_cannot_be_pushed_is_said(
    server: Hub, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no//name: "):
        push(finished, "no//name", private=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push(finished, "owner/name", private=False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="there is no token for the hub"):
        push(finished, "owner/name", private=False)
    assert not server.repositories


def test_a_run_without_a_model_is_refused_before_its_report_is_drawn(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "final" / "model.safetensors").unlink()
    assert command([str(finished), "owner/name"]) == 2
    assert "is not a finished run" in capsys.readouterr().err and not (finished / "report").exists()


def test_a_hub_that_is_not_there_is_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub() as gone:
        pass
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", gone.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError) as unreachable:
        push(finished, "owner/name", private=False)
    said = str(unreachable.value)
    assert said.startswith(f"{gone.address} cannot be reached: ") and TOKEN not in said
