"""Signals, as schedulers and people send them to real launches, and the codes that launches end with."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.engines.deepspeed.environment import free_port
from sparsepo_dist.training.checkpoints.store import CheckpointStore
from tests.support.runs import ROOT, ZERO, metrics
from tests.support.tiny import save_tiny_model, write_pairs
from tests.support.warm import hearth

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ONE = [sys.executable, "-m"]
TORCHRUN = [
    sys.executable, "-m", "tests.support.warm", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
]  # fmt: skip
SECRETS = {"HF_TOKEN": "hf_thisIsASecret", "WANDB_API_KEY": "alsoASecret0123456789"}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("stopping")
    ds_config = folder / "ds.json"
    ds_config.write_text(json.dumps(ZERO[3]))
    fields = {
        "model.path": save_tiny_model(folder / "model"), "data.train": write_pairs(folder / "pairs.jsonl", 12),
        "data.max_length": 100, "training.pairs_per_step": 5, "training.precision": "fp32", "training.epochs": 3,
        "ds_config": ds_config,
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in fields.items()]


def struck(
    launcher: list[str], kind: str, arguments: list[str], run: Path, *, step: int = 2,
    during: str = "the policy's forward", rank: int | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """A launch whose last rank, or the one named, gets a signal in a step."""
    command = [*launcher, "tests.support.warm", *faulty(launcher, kind, step, during, rank), *arguments]
    return subprocess.run(
        [*command, f"--output_dir={run}"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        env=environment(),
    )  # fmt: skip


def faulty(
    launcher: list[str], kind: str, step: int = 2, during: str = "the policy's forward", rank: int | None = None
) -> list[str]:
    """launch/train.py whose last rank, or the one named, gets a signal."""
    last = 1 if "2" in launcher else 0
    fault = {"kind": kind, "rank": last if rank is None else rank, "step": step, "during": during}
    return ["tests.support.struck", json.dumps(fault)]


def environment() -> dict[str, str]:
    """For launches of warm ranks."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {
        **inherited, **hearth(), **SECRETS, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def started(command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """A launch in a session of its own, which hears SIGHUP even where these tests do not (nohup)."""

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if "terminal" in streams:
            fcntl.ioctl(1, termios.TIOCSCTTY, 0)

    given = {name: value for name, value in streams.items() if name != "terminal"}
    if "terminal" in streams:
        given = {"stdout": streams["terminal"], "stderr": streams["terminal"]}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=prepare,
        **given,
    )  # fmt: skip


def read_until(number: int, words: bytes) -> None:
    """Read what a launch says until it has said that."""
    said = b""
    while words not in said:
        more = os.read(number, 1 << 16)
        assert more, said.decode()
        said += more


def test_a_scheduler_requeues(arguments: list[str], tmp_path: Path) -> None:
    """75 reaches the caller of the launcher, and nothing that was printed or written knows the user's tokens."""
    run, port = tmp_path / "run", free_port()
    done = struck(
        ["deepspeed", "--master_port", port, "--num_accelerators", "2", "--module"], "SIGUSR1", arguments, run
    )
    assert done.returncode == 75, done.stderr[-3000:]
    assert not [path for path in Path("/dev/shm").iterdir() if port in path.name.split("_")]  # DeepSpeed leaves it full
    assert done.stderr.count("stopped by SIGUSR1 after step 2 of 9; the checkpoint is complete") == 1
    assert "Traceback" not in done.stderr
    (checkpoint,) = CheckpointStore(run / "checkpoints").complete()
    assert checkpoint.step == 2 and checkpoint.damage() is None
    written = [path.read_bytes() for path in run.rglob("*") if path.is_file()]
    for secret in SECRETS.values():
        assert secret not in done.stdout + done.stderr
        assert not any(secret.encode() in content for content in written)


def test_before_the_first_step_there_is_nothing_to_finish(arguments: list[str], tmp_path: Path) -> None:
    done = struck([sys.executable, "-m"], "SIGTERM", arguments, tmp_path / "run", step=0, during="before the engines")
    assert done.returncode == 75, done.stderr[-3000:]
    assert "stopped by SIGTERM" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(("kind", "code"), [("SIGINT", 130), ("SIGTERM twice", 128 + 15)])
def test_one_rank(arguments: list[str], tmp_path: Path, kind: str, code: int) -> None:
    done = struck([sys.executable, "-m"], kind, arguments, tmp_path / "run")
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    steps = [checkpoint.step for checkpoint in CheckpointStore(tmp_path / "run" / "checkpoints").complete()]
    if kind == "SIGINT":
        assert steps == [2] and "stopped by SIGINT after step 2" in done.stderr
    else:
        assert steps == [] and "SIGTERM again: ending at once" in done.stderr


@pytest.mark.parametrize("launcher", [ONE, TORCHRUN], ids=["one rank", "two ranks"])
def test_nobody_has_to_listen(arguments: list[str], tmp_path: Path, launcher: list[str]) -> None:
    """Whoever reads standard output goes away before the start, whoever reads standard error during the training."""
    run = tmp_path / "run"
    command = [*launcher, "tests.support.warm", "launch/train.py", *arguments, f"--output_dir={run}"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as launched:
        assert launched.stdout is not None and launched.stderr is not None
        launched.stdout.close()
        read_until(launched.stderr.fileno(), b"training:")
        launched.stderr.close()
        assert launched.wait(timeout=600) == 0
    assert [row["step"] for row in metrics(run)] == list(range(1, 10))
    assert (run / "final" / "config.json").is_file() and (run / "report" / "index.html").is_file()


@pytest.mark.parametrize("kind", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("launcher", ["python", "torchrun", "deepspeed"])
def test_signals_are_heard_when_nobody_listens(arguments: list[str], tmp_path: Path, launcher: str, kind: str) -> None:
    """torchrun makes 1 of every code."""
    deepspeed = ["deepspeed", "--master_port", free_port(), "--num_accelerators", "2", "--module"]
    start, code = {"python": (ONE, 75), "torchrun": (TORCHRUN, 1), "deepspeed": (deepspeed, 75)}[launcher]
    run = tmp_path / "run"
    command = [*start, "tests.support.warm", *faulty(start, kind), *arguments, f"--output_dir={run}"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as launched:
        assert launched.stdout is not None and launched.stderr is not None
        launched.stdout.close()
        launched.stderr.close()
        assert launched.wait(timeout=600) == code
    (checkpoint,) = CheckpointStore(run / "checkpoints").complete()
    assert checkpoint.step == 2 and checkpoint.damage() is None


@pytest.mark.parametrize(("launcher", "code"), [(ONE, 75), (TORCHRUN, 1)], ids=["python", "torchrun"])
def test_a_closed_terminal(arguments: list[str], tmp_path: Path, launcher: list[str], code: int) -> None:
    """It hangs up on those who were started in it, and fails all that they write."""
    run = tmp_path / "run"
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))  # a progress bar fills its width
    command = [*launcher, "tests.support.warm", "launch/train.py", *arguments]
    command += ["--training.epochs=300", f"--output_dir={run}"]
    with started(command, terminal=terminal) as launched:
        os.close(terminal)
        read_until(master, b"loss ")
        os.close(master)
        assert launched.wait(timeout=600) == code
    (checkpoint,) = CheckpointStore(run / "checkpoints").complete()
    assert checkpoint.step == len(metrics(run)) and checkpoint.damage() is None
    assert not (run / "final").exists()


def test_nohup_is_heeded(arguments: list[str], tmp_path: Path) -> None:
    done = struck(["nohup", *ONE], "SIGHUP", arguments, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "final" / "config.json").is_file()


def test_the_rank_through_which_the_others_speak_is_stopped(arguments: list[str], tmp_path: Path) -> None:
    """SIGSTOP of rank 0, which under this launcher holds the store of the ranks."""
    done = struck(
        ["deepspeed", "--master_port", free_port(), "--num_accelerators", "2", "--module"], "freeze",
        [*arguments, "--training.hang_minutes=0.1"], tmp_path / "run", rank=0,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-3000:]
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1 and "and rank 0 at 127.0.0.1:" in messages[0], messages
    assert f"Rank 1 on {socket.gethostname()} was in step 2, the policy's forward" in messages[0]
