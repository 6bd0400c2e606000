"""`sparsepo demo`: the whole sentiment experiment, from nothing to a report."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from sparsepo_dist.builtin.pairs import sentiment_files
from sparsepo_dist.engines.deepspeed.environment import free_port
from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.sentiment.evaluation import evaluate, write_evaluation
from sparsepo_dist.report.pages.build import build_report
from sparsepo_dist.report.reading import read_run

ROOT = Path(__file__).resolve().parents[3]
BYTES_PER_CPU_RANK = 5 * 2**30
MOST_CPU_RANKS = 8  # pairs of one step in the recipe: more ranks would have nothing to do


def run_demo(output_dir: Path | None = None) -> Path:
    """Make the pairs, train with ZeRO-3 on every GPU or as many CPU ranks as fit, evaluate, report; the run's folder.

    Raises:
        UserError: no checkout around the package, or the training failed (its own message stands above).
    """
    script = ROOT / "launch" / "train.py"
    if not script.is_file():
        raise UserError(f"the demo runs from a checkout of the project; there is no {script}")
    files = sentiment_files()
    run = output_dir or Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    command = [
        str(Path(sys.executable).with_name("deepspeed")), "--quiet", "--num_accelerators", str(_ranks()),
        "--master_port", free_port(),
        str(script), "--ds_config", str(ROOT / "ds_configs" / "zero3.json"), "--output_dir", str(run),
        "--data.train", str(files.train), "--data.heldout", str(files.heldout),
    ]  # fmt: skip
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if subprocess.run(command, check=False, env=environment).returncode:
        raise UserError("the training failed; its message stands above")
    sparsity = {
        name.replace("_", " "): (last[f"sparsity/{name}/chosen"] + last[f"sparsity/{name}/rejected"]) / 2
        for last in [read_run(run).last("eval")]
        for name in ("reward_mask", "divergence_mask")
    }
    write_evaluation(evaluate(files.model, run / "final", sparsity), run)
    build_report(run)
    return run


def summary(run: Path) -> str:
    """What the demo found, in a few lines. Raises UserError as `read_run`."""
    result = read_run(run).evaluation
    assert result is not None
    difference = result["difference"]
    sparsity = ", ".join(f"{name} {share:.0%}" for name, share in result["sparsity"].items())
    return (
        f"Mean reward on {result['prompts']} unseen prompts x {result['samples_per_prompt']} samples: "
        f"{result['reference']['mean_reward']:+.3f} before, {result['trained']['mean_reward']:+.3f} after; "
        f"difference {difference['mean']:+.3f}, 95 % interval [{difference['low']:+.3f}, {difference['high']:+.3f}]\n"
        f"Response-level KL: {result['response_kl']:.2f} nats. Tokens at exactly 0: {sparsity}\n"
        f"The run is in {run}: final/ is the model, report/index.html shows what happened."
    )


def _ranks() -> int:
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores, memory // BYTES_PER_CPU_RANK, MOST_CPU_RANKS))
