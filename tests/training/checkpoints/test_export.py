"""Models made of real checkpoints of two ranks, and runs that are watched while such checkpoints appear."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.jobs.spec import read_plan
from sparsepo_dist.evaluation.jobs.store import JobStore
from sparsepo_dist.evaluation.jobs.table import collect
from sparsepo_dist.evaluation.jobs.watch import watch
from sparsepo_dist.training.checkpoints.export import export_checkpoint
from sparsepo_dist.training.checkpoints.store import COMPLETE, STATE
from tests.support.evaluation_jobs import ROOT, Bench, until
from tests.support.runs import ZERO, train_all
from tests.support.tampering import resigned, trapped
from tests.support.tiny import save_tiny_model, write_pairs

pytestmark = pytest.mark.slow

STEPS = (1, 2)
RUNS: dict[str, dict[str, Any]] = {
    "zero0": {"ds_config": ZERO[0]},
    "zero2": {"ds_config": ZERO[2]},
    "zero3": {"ds_config": ZERO[3]},
    "bf16": {"ds_config": ZERO[3], "training.precision": "bf16", "data.chat_template": "builtin:plain"},
    "lora": {"ds_config": ZERO[3], "model.adapter": "lora"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    common = {
        "model.path": save_tiny_model(folder / "llama"), "data.train": write_pairs(folder / "train.jsonl", 8),
        "data.max_length": 100, "data.tokens_per_micro_batch": 70, "training.pairs_per_step": 4, "training.epochs": 1,
        "training.learning_rate": 1e-2, "training.precision": "fp32", "checkpoints.every_steps": 1,
        "checkpoints.export_every_steps": 1,
    }  # fmt: skip
    return train_all(folder / "runs", {name: {**common, **special} for name, special in RUNS.items()}, ranks=2)


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", RUNS)
def test_the_last_checkpoint_is_the_final_model_bit_for_bit(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    run = runs[name]
    found = export_checkpoint(checkpoint(run, 2), tmp_path / "model")
    want, got = tensors(run / "final"), tensors(found)
    assert want.keys() == got.keys()
    for key, value in want.items():
        assert got[key].dtype == value.dtype and torch.equal(got[key], value), key
    beside_final = {p.name for p in (run / "final").iterdir()} - {"masks.safetensors"}
    assert {p.name for p in found.iterdir()} == beside_final | {"trained.json"}
    assert (found / "chat_template.jinja").is_file() == (name == "bf16")
    origin = json.loads((found / "trained.json").read_text())
    assert (origin["run"], origin["step"]) == (run.name, 2)
    assert origin["config"] == yaml.safe_load((run / "config.yaml").read_text())
    assert not list(tmp_path.glob(".writing-*"))
    earlier = tensors(export_checkpoint(checkpoint(run, 1), tmp_path / "earlier"))
    assert any(not torch.equal(earlier[key], want[key]) for key in want)
    (on_the_way,) = (run / "exported").iterdir()  # the last step's is final/
    assert on_the_way.name == "step-00000001"
    got = tensors(on_the_way)
    assert earlier.keys() == got.keys() and all(torch.equal(got[key], earlier[key]) for key in earlier)
    assert {p.name for p in on_the_way.iterdir()} == {p.name for p in (run / "final").iterdir()} | {"trained.json"}
    assert json.loads((on_the_way / "trained.json").read_text()) == {**origin, "step": 1}


def test_float32_masters_say_more_than_the_run_computes_with(runs: dict[str, Path], tmp_path: Path) -> None:
    masters = tensors(export_checkpoint(checkpoint(runs["bf16"], 2), tmp_path / "model", fp32=True))
    final = tensors(runs["bf16"] / "final")
    assert all(value.dtype == torch.float32 for value in masters.values())
    assert all(torch.equal(masters[key].bfloat16(), final[key]) for key in final)
    assert any(not torch.equal(masters[key], final[key].float()) for key in final)


def test_what_is_exported_loads_and_speaks(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = export_checkpoint(checkpoint(runs["zero3"], 2), tmp_path / "model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    final = AutoModelForCausalLM.from_pretrained(runs["zero3"] / "final")
    ids = tokenizer("a film", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, final(ids).logits)
    assert model.generation_config.to_dict() == final.generation_config.to_dict()


def test_what_cannot_be_exported(runs: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "run" / "checkpoints" / "step-00000002"
    shutil.copytree(checkpoint(runs["zero3"], 2), copy)
    with pytest.raises(UserError, match="export: .*run is not empty; name another folder"):
        export_checkpoint(copy, tmp_path / "run")
    shard = next((copy / "engine").glob("*optim_states.pt"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=rf"is damaged: engine/{shard.name} has changed since it was written"):
        export_checkpoint(copy, tmp_path / "model")
    (copy / COMPLETE).unlink()
    with pytest.raises(UserError, match="export: .* is no complete checkpoint"):
        export_checkpoint(copy, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@contextmanager
def living(run: Path) -> Iterator[None]:
    """As a training holds its folder."""
    with (run / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def bench_of(tmp_path: Path, suites: dict[str, dict[str, Any]], **more: Any) -> Bench:
    bench = Bench(tmp_path, {}, models=0)
    bench.write(suites, **more)
    return bench


def test_a_living_run_is_followed_to_its_end(runs: dict[str, Path], tmp_path: Path) -> None:
    bench, run = bench_of(tmp_path, {"a": {"needs": "config.json"}, "b": {}}), tmp_path / "live"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".lock").touch()
    plan, store, holds = bench.plan, JobStore(bench.output), Future[None]()

    def train() -> None:
        with living(run):
            holds.set_result(None)
            for step in STEPS:
                shutil.copytree(checkpoint(runs["zero2"], step), run / "checkpoints" / f".writing-{step}")
                (run / "checkpoints" / f".writing-{step}").rename(checkpoint(run, step))
                until(lambda step=step: store.job(f"live-step-{step:08d}", "b").now().final)
            # keep_last: what has been evaluated may go
            shutil.rmtree(checkpoint(run, 1))
            shutil.copytree(runs["zero2"] / "final", run / ".writing-final")
            (run / ".writing-final").rename(run / "final")

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train)
        holds.result()
        told = watch(run, plan)
        training.result()
    names = ["live", "live-step-00000001", "live-step-00000002"]
    assert "All 6 jobs" in told and "stopped before its end" not in told
    jobs = [f"{name}/{suite}" for name in names for suite in "ab"]
    assert bench.ran() == sorted(jobs)
    assert not [path for path in (bench.output / "exported").iterdir() if path.is_dir()]
    assert list(collect(plan)[0].rows) == names
    watch(run, plan)
    assert bench.ran() == sorted(jobs)
    elsewhere = stopped_run(runs, tmp_path / "elsewhere" / "live", 1)
    with pytest.raises(UserError, match=f"holds results of {run}, which has the same name as {elsewhere}"):
        watch(elsewhere, plan)


def stopped_run(runs: dict[str, Path], folder: Path, *steps: int) -> Path:
    """A run that nobody works at, without final/."""
    for step in steps:
        shutil.copytree(checkpoint(runs["lora"], step), checkpoint(folder, step))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").touch()
    return folder


def test_a_stopped_run_is_evaluated_as_far_as_it_went(runs: dict[str, Path], tmp_path: Path) -> None:
    bench = bench_of(tmp_path, {"a": {"needs": "adapter_config.json"}}, keep_exported=True)
    run = stopped_run(runs, tmp_path / "run", *STEPS)
    shard = next((checkpoint(run, 1) / "engine").glob("*optim_states.pt"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(RunError, match="step-00000001 is damaged"):
        watch(run, bench.plan)
    assert bench.ran() == ["run-step-00000002/a"]
    assert (bench.output / "exported" / "run-step-00000002" / "adapter_model.safetensors").is_file()
    shutil.rmtree(checkpoint(run, 1))
    assert "The run stopped before its end: watch it again" in watch(run, bench.plan)
    assert bench.ran() == ["run-step-00000002/a"]
    with pytest.raises(UserError, match="is no run"):
        watch(tmp_path, bench.plan)


def test_a_watch_goes_on_with_what_an_earlier_one_left(runs: dict[str, Path], tmp_path: Path) -> None:
    """Killed after it had made a model of a checkpoint, which the training has removed since."""
    bench = bench_of(tmp_path, {"a": {"needs": "config.json", "do": "once"}})
    run = stopped_run(runs, tmp_path / "run")
    left = bench.output / "exported" / "run-step-00000001"
    export_checkpoint(checkpoint(runs["zero0"], 1), left)
    with pytest.raises(RunError, match="1 of 1 jobs failed"):
        watch(run, bench.plan)
    assert not left.exists(), "a model that failed is made again when it is wanted again"
    export_checkpoint(checkpoint(runs["zero0"], 1), left)
    watch(run, bench.plan)
    assert bench.ran() == ["run-step-00000001/a"] * 2 and not left.exists()


def test_a_checkpoint_without_what_is_wanted(runs: dict[str, Path], tmp_path: Path) -> None:
    """Its configuration names another model than its weights are of."""
    copy = tmp_path / "run" / "checkpoints" / "step-00000002"
    shutil.copytree(checkpoint(runs["zero3"], 2), copy)
    other = save_tiny_model(tmp_path / "other", "gpt_neox")
    state = (copy / STATE).read_text().replace(str(runs["zero3"].parent.parent / "llama"), str(other))
    resigned(copy, STATE, state)
    with pytest.raises(UserError, match="lacks .*: it is of another model, or incomplete"):
        export_checkpoint(copy, tmp_path / "model")
    resigned(copy, STATE, json.dumps({**json.loads(state), "config": {}}))
    with pytest.raises(UserError, match="does not say what it was trained from"):
        export_checkpoint(copy, tmp_path / "model")
    resigned(copy, STATE, "{}")
    with pytest.raises(UserError, match="is damaged: state.json cannot be read .state.json has nothing for step"):
        export_checkpoint(copy, tmp_path / "model")


@pytest.mark.parametrize(("name", "pattern"), [
    ("zero0", "*model_states.pt"), ("zero2", "*0_mp_rank_00_optim_states.pt"), ("zero2", "*model_states.pt"),
    ("zero3", "*1_mp_rank_00_optim_states.pt"), ("zero3", "*0_mp_rank_00_model_states.pt"),
])  # fmt: skip
def test_code_in_a_checkpoint_is_not_run(runs: dict[str, Path], tmp_path: Path, name: str, pattern: str) -> None:
    copy, sprung = tmp_path / "run" / "checkpoints" / "step-00000002", tmp_path / "sprung"
    shutil.copytree(checkpoint(runs[name], 2), copy)
    trapped(copy, next((copy / "engine").glob(pattern)), sprung)
    with pytest.raises(UserError, match="cannot be read: .* may be code: it was not unpickled"):
        export_checkpoint(copy, tmp_path / "model")
    assert not sprung.exists() and not (tmp_path / "model").exists()


def test_a_run_is_watched_with_the_papers_figure_2(runs: dict[str, Path], tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "plan.yaml"
    shutil.copytree(runs["zero2"], run, ignore=shutil.ignore_patterns("step-00000002", "final"))
    shipped = yaml.safe_load((ROOT / "evaluation" / "figure2.yaml").read_text())
    shipped["suites"]["frontier"] |= {"prompt_count": 2, "max_new_tokens": 4}
    file.write_text(yaml.safe_dump({**shipped, "output": str(tmp_path / "out"), "resources": {"gpus_per_job": 0}}))
    plan = read_plan(file, ROOT / "evaluation")
    watch(run, plan)
    table, _ = collect(plan)
    assert table.rows["run-step-00000001"]["frontier/kl"] > 0 and not table.without
    (row,) = json.loads((tmp_path / "out" / "figures" / "frontier" / "frontier.json").read_text())["rows"]
    assert (row["method"], row["step"]) == ("sparsepo-independent", 1)
