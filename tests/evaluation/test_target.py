"""What --model may be, and results that are found again only where they are the same measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.hub_mirror import check_dataset, reading_from
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.target import Target, target


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def adapter(folder: Path, base: str | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


def test_a_model_folder_a_run_and_a_hub_id(model: Path, tmp_path: Path) -> None:
    assert target(str(model)) == Target("model", str(model))
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="has not ended"):
        target(str(run))
    model.rename(run / "final")
    assert target(str(run)) == target(str(run / "final")) == Target("first", str(run / "final"))
    assert target("EleutherAI/pythia-70m") == Target("EleutherAI/pythia-70m", "EleutherAI/pythia-70m")
    assert target("EleutherAI/pythia-70m").sha256 is None


def test_an_adapter_names_its_model(model: Path, tmp_path: Path) -> None:
    found = target(str(adapter(tmp_path / "run" / "final", str(model))))
    assert found == Target("run", str(model), str(tmp_path / "run" / "final"))
    lost = adapter(tmp_path / "lost", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="belongs on .*gone, which is not there; name it with --base"):
        target(str(lost))
    assert target(str(lost), base=str(model)).model == str(model)
    with pytest.raises(UserError, match="does not say which model"):
        target(str(adapter(tmp_path / "nameless", None)))


def test_another_base_than_the_adapter_names_is_said(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = adapter(tmp_path / "here", str(model))
    target(str(here)), target(str(here), base=f"{model}/../model")
    assert not caplog.records
    assert target(str(here), base="other/model").model == "other/model"
    assert f"--model {here}: it was made for the model {model}, and is put on other/model" in caplog.text


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither a model"):
        target(str(tmp_path))
    with pytest.raises(UserError, match="there is no folder"):
        target(str(tmp_path / "nowhere"))


def test_the_hash_is_of_the_weights_and_not_of_the_place(model: Path, tmp_path: Path) -> None:
    before = target(str(model)).sha256
    model.rename(tmp_path / "moved")
    assert target(str(tmp_path / "moved")).sha256 == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"others")
    assert target(str(tmp_path / "moved")).sha256 != before


def test_results_are_found_again_for_the_same_measurement_only(model: Path, tmp_path: Path) -> None:
    results = Results(tmp_path / "out", target(str(model)), {"seed": 0}, packages=["numpy"])
    assert results.finished("task") is None
    path = results.write("task", {"acc": 0.5})
    record = json.loads(path.read_text())
    assert record["versions"]["numpy"] and record["command"] and record["model"]["sha256"]
    assert Results(tmp_path / "out", target(str(model)), {"seed": 0}).finished("task") == {"acc": 0.5}
    with pytest.raises(UserError, match="another seed"):
        Results(tmp_path / "out", target(str(model)), {"seed": 1}).finished("task")
    (model / "model.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="of another model"):
        Results(tmp_path / "out", target(str(model)), {"seed": 0}).finished("task")
    path.write_text("{")
    with pytest.raises(UserError, match="holds no result"):
        results.finished("task")


def test_a_missing_dataset_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    check_dataset("there", tmp_path, needed_by="task")
    with pytest.raises(UserError, match=f"task reads the dataset a/b.* should be in {tmp_path / 'a/b'}"):
        check_dataset("a/b", tmp_path, needed_by="task")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        check_dataset("a/b", None, needed_by="task")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    check_dataset("a/b", None, needed_by="task")
    here = Path.cwd()
    with reading_from(tmp_path):
        assert Path.cwd() == tmp_path
    assert Path.cwd() == here
