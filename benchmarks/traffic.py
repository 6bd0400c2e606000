"""What two ranks move in a step, by collective, beside what `sparsepo plan` says; and its time beside the plan's.

    python -m benchmarks.traffic --output FILE.json [--smollm2 FOLDER]

A small model is trained on two CPU ranks (gloo), and on one, by benchmarks/traffic_worker.py. Bytes are those of whole
buffers that torch.distributed was asked to move, times the (n - 1) / n that each of n ranks sends of them by a ring
(twice that for an all-reduce). The file also holds this machine's terms, for `sparsepo plan --machine FILE.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks.measure import MIB, describe
from benchmarks.smollm2 import given_or_made
from benchmarks.step_worker import Work, our_arguments
from benchmarks.tables import table
from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
from sparsepo_dist.plan.asked.request import Request
from sparsepo_dist.plan.needs.plan import Plan, make_plan
from sparsepo_dist.plan.speed.machine import Machine
from sparsepo_dist.plan.speed.time import step_time
from sparsepo_dist.runs.parsing import parse_train

ROOT = Path(__file__).resolve().parents[1]
RANKS = 2
PROMPT, RESPONSE = 192, 64
PAIR = PROMPT + 2 * (RESPONSE - 1)
NOTHING_KEPT = {
    "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0, "stage3_param_persistence_threshold": 0
}  # fmt: skip
"""ZeRO-3 as papers describe it: every weight is gathered where it is used and released after."""


class Measured(NamedTuple):
    """What a launch found."""

    machine: dict[str, float] | None
    works: list[dict[str, Any]]


def works(model: Path, pairs: Path) -> dict[str, Work]:
    """What is measured, by name; micro-batches of one pair."""
    fields = {"objective.name": "sparsepo", "data.tokens_per_micro_batch": PAIR}
    base = Work(
        "ours", str(model), str(pairs), steps=7, pairs_per_step=8, max_length=PROMPT + RESPONSE, threads=1,
        lengths=[PROMPT, RESPONSE], fields=fields,
    )  # fmt: skip

    def changed(stage: int, zero: Mapping[str, Any] = {}, **more: Any) -> Work:
        named = {name.replace("__", "."): value for name, value in more.items()}
        return dataclasses.replace(base, zero_stage=stage, zero=dict(zero), fields={**fields, **named})

    return {
        "ZeRO-0": changed(0, reference__placement="replicated"),
        "ZeRO-2": changed(2, reference__placement="replicated"),
        "ZeRO-2, LoRA": changed(2, model__adapter="lora"),
        "ZeRO-3": changed(3, reference__tokens_per_pass=PAIR),
        "ZeRO-3, nothing kept": changed(3, NOTHING_KEPT, reference__tokens_per_pass=PAIR),
        "ZeRO-3, nothing kept, reference by 4": changed(3, NOTHING_KEPT, reference__tokens_per_pass=4 * PAIR),
    }


def launch(given: Mapping[str, Work], ranks: int, *, terms: bool = False) -> Measured:
    """Train every work in turn on so many ranks, one thread each.

    Raises:
        SystemExit: the ranks failed; with what they said.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "found.json"
        told = {"works": [dataclasses.asdict(w) for w in given.values()], "terms": terms, "output": str(output)}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        done = subprocess.run(
            [*command, "-m", "benchmarks.traffic_worker", json.dumps(told, default=str)], cwd=ROOT, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"the ranks failed:\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}")
        return Measured(**json.loads(output.read_text()))


def predict(work: Work, ranks: int) -> Plan:
    """The plan of the same run."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = parse_train(our_arguments(work, Path(folder)))
        return make_plan(Request(config, load_ds_config(config.ds_config), ranks, device="cpu"))


def sent(found: Mapping[str, Any], ranks: int) -> dict[tuple[str, str], tuple[float, int]]:
    """(bytes that a rank sends by a ring, calls), by collective and purpose, of a measured work."""
    share = (ranks - 1) / ranks
    return {
        (collective, purpose): (size * share * (2 if collective == "all-reduce" else 1), calls)
        for collective, purpose, calls, size in found["moved"]
    }


def planned(plan: Plan) -> dict[tuple[str, str], tuple[float, int]]:
    """The same of a plan; the policy's weights and updated ones are `weights` to the counter."""
    names = {"policy's weights": "weights", "updated weights": "weights"}
    return {(item.collective, names.get(item.purpose, item.purpose)): (item.bytes, item.calls) for item in plan.traffic}


def traffic_rows(given: Mapping[str, Work], measured: Measured) -> Iterator[dict[str, Any]]:
    """(a) Bytes and calls of a step, measured and planned."""
    for (name, work), found in zip(given.items(), measured.works, strict=True):
        theory = planned(predict(work, RANKS))
        for key, (size, calls) in sent(found, RANKS).items():
            said = theory.get(key, (0.0, 0))
            yield {
                "run": name, "collective": key[0], "of": key[1], "MiB": size / MIB, "plan": said[0] / MIB,
                "measured / plan": size / said[0] if said[0] else "-", "calls": calls, "plan's": said[1],
            }  # fmt: skip


def logger_rows(given: Mapping[str, Work], measured: Measured) -> Iterator[dict[str, Any]]:
    """(b) What DeepSpeed's comms logger notes of the same step, of all calls to torch.distributed."""
    for name, found in zip(given, measured.works, strict=True):
        for collective, (calls, size) in found["logged_by_deepspeed"].items():
            of_all = [(c, b) for kind, _, c, b in found["moved"] if kind == collective]
            yield {
                "run": name, "collective": collective, "calls": sum(c for c, _ in of_all), "logged": calls,
                "MiB of whole buffers": sum(b for _, b in of_all) / MIB, "logged MiB": size / MIB,
            }  # fmt: skip


def machine_of(compute: Measured, together: Measured, share: float, name: str) -> Machine:
    """This machine's terms: one node, whose ranks have a core each.

    Args:
        compute: whose rates of products and memory are meant: those of one rank, or of ranks that share a memory.
        together: whose links are meant.
        share: of the matrix rate that training reaches.
        name: of the device.
    """
    assert together.machine is not None and compute.machine is not None
    link = together.machine["link_bytes"] / 1e9
    return Machine(
        name=name,
        matrix_tflops={"float32": compute.machine["matrix_flops"] / 1e12},
        bandwidth=link,
        network=link,
        memory_bandwidth=compute.machine["memory_bytes"] / 1e9,
        matrix_share=share,
        gpus_per_node=RANKS,
        call_us=together.machine["call_seconds"] * 1e6,
        step_us=0.0,
        network_step_us=0.0,
        measured=True,
    )


def reached_share(work: Work, alone: Measured, together: Measured) -> float:
    """Share of one rank's matrix rate with which the model gives the time that was measured there.

    Raises:
        SystemExit: more than all of it, so that rate and step were not measured under the same conditions.
    """
    seconds = step_time(predict(work, 1), machine_of(alone, together, 1.0, ""))
    share = seconds.arithmetic / (alone.works[0]["seconds"] - seconds.memory)
    if not 0 < share <= 1:
        raise SystemExit(
            f"a step's products seem to reach {share:.0%} of the matrix rate: the machine was busier while that was "
            "measured than in the step; measure again when less else runs"
        )
    return share


def time_rows(
    given: Mapping[str, Work], runs: Mapping[int, tuple[Measured, Machine]]
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """(c) Seconds of a step: the fastest measured, and the model's; on one rank they are equal by construction."""
    for ranks, (measured, machine) in runs.items():
        for (name, work), found in zip(given.items(), measured.works, strict=False):
            seconds = step_time(predict(work, ranks), machine)
            yield {
                "run": name, "ranks": ranks, "seconds": found["seconds"], "median": found["median_seconds"],
                "model": seconds.total, "model / measured": seconds.total / found["seconds"],
                "communication": seconds.communication / seconds.total,
            }  # fmt: skip


def save_model(smollm2: Path, folder: Path) -> Path:
    """A decoder of 11 million parameters with SmolLM2's vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, vocab_size=49152,
        max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(folder)
    return folder


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M (default: the one the demo makes)")
    parser.add_argument("--output", type=Path, help="JSON file of every figure, and of the machine's terms")
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    smollm2 = given_or_made(arguments.smollm2)
    scratch = Path(tempfile.mkdtemp(prefix="sparsepo-traffic-"))
    pairs = scratch / "pairs.jsonl"
    pairs.write_text('{"prompt": "a", "chosen": " b", "rejected": " c"}\n' * 56)
    given = works(save_model(smollm2, scratch / "model"), pairs)
    first = dict(list(given.items())[:1])
    alone, together = launch(first, 1, terms=True), launch(given, RANKS, terms=True)
    named = describe(torch.device("cpu"))
    share = reached_share(first["ZeRO-0"], alone, together)
    one, machine = (machine_of(compute, together, share, str(named["device"])) for compute in (alone, together))
    tables = {
        "traffic": list(traffic_rows(given, together)),
        "deepspeed_logger": list(logger_rows(given, together)),
        "time": list(time_rows(given, {1: (alone, one), RANKS: (together, machine)})),
    }
    for function, rows in zip((traffic_rows, logger_rows, time_rows), tables.values(), strict=True):
        print(table(str(function.__doc__).splitlines()[0], rows), flush=True)
    if arguments.output:
        terms = {k: v for k, v in dataclasses.asdict(machine).items() if k != "measured"}
        result = {**named, "ranks": RANKS, "load": os.getloadavg(), "machine": terms, **tables}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
