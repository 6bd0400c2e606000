"""Whole training steps: ours against TRL's, and against ours with one thing changed; `make bench`.

    python -m benchmarks.steps --data FOLDER --output FILE.json [--smollm2 FOLDER] [--only trl,ranks,...] [--rounds 2]
    python -m benchmarks.steps --data FOLDER --quick

Everything of a table runs in turn, each in a process of its own (benchmarks/step_worker.py), `--rounds` times; figures
are medians over the steps after each process's first one. Memory is the peak above weights, gradients, optimizer
state and reference, without what was there before any model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

from benchmarks.measure import MIB, describe, matrix_rate
from benchmarks.models import byte_tokenizer, pythia_config, save_random_model
from benchmarks.smollm2 import given_or_made
from benchmarks.step_worker import Measured, Work
from benchmarks.tables import table
from benchmarks.worker import ROOT, found_by
from sparsepo_dist.plan.speed.flops import necessary_flops

FILES = {"HH": "hh_harmless_base.jsonl", "IMDB": "imdb_pairs.jsonl"}
SPARSEPO = {"objective.name": "sparsepo", "reference.placement": "replicated"}
DPO = {"objective.name": "dpo", "reference.placement": "replicated"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEAST_RATE = 0.5  # of fp32's: below it the machine has no arithmetic of that kind, and a figure would say nothing


class Bench(NamedTuple):
    """What all tables share."""

    models: dict[str, Path]
    data: Path
    scratch: Path
    rates: dict[str, float]
    """Floating-point operations per second of a square product, by dtype."""
    rounds: int
    steps: int
    quick: bool = False
    """Only the candidates whose ratios are goals: SparsePO against TRL's DPO, two ranks under ZeRO-3 against one."""


def trl_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(a) Full SparsePO with independent masks, and DPO, against TRL's DPO: same pairs, model, dtype; one rank."""
    for model in ("pythia-70m", "smollm2-135m"):
        for name, file in FILES.items():
            for dtype in bench.rates:
                work = _work(bench, model, file, dtype)
                runs = {
                    "TRL DPO": dataclasses.replace(work, system="trl"),
                    "SparsePO": dataclasses.replace(work, fields=SPARSEPO),
                }
                if not bench.quick:
                    runs["DPO"] = dataclasses.replace(work, fields=DPO)
                for row in _against_trl(bench, _in_turn(bench, runs), model, dtype):
                    yield {"model": model, "pairs": name, "dtype": dtype, **row}


def rank_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(b) Ranks and ZeRO stages; the machine's cores are shared out."""
    work = _work(bench, "pythia-70m", FILES["HH"], "fp32")
    fields = {"objective.name": "sparsepo"}
    runs = {
        f"{ranks} x ZeRO-{stage}": (dataclasses.replace(work, fields=fields, zero_stage=stage), ranks)
        for ranks, stage in (((1, 0), (2, 3)) if bench.quick else product((1, 2), (0, 2, 3)))
    }
    found = _in_turn(bench, {n: w for n, (w, _) in runs.items()}, {n: r for n, (_, r) in runs.items()})
    yield from _against(bench, found, "1 x ZeRO-0", "pythia-70m")


def prompt_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(c) What sharing prompts gains: responses of 64 tokens."""
    for prompt in (64, 256, 1024):
        work = _work(bench, "pythia-70m", FILES["HH"], "fp32")
        work = dataclasses.replace(work, lengths=[prompt, 64], max_length=2048)
        found = _in_turn(
            bench,
            {
                layout: dataclasses.replace(work, fields={**SPARSEPO, "data.layout": layout})
                for layout in ("packed", "prefix_shared")
            },
        )
        for row in _against(bench, found, "packed", "pythia-70m"):
            yield {"prompt": prompt, **row}


def sparsity_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(d) What sparse masks gain: both masks are 0 for a share of the tokens."""
    fields = {**SPARSEPO, "masks.kind": "ones"}
    work = _work(bench, "pythia-70m", FILES["IMDB"], "fp32")
    runs = {f"{share:.0%}": dataclasses.replace(work, fields=fields, sparsity=share) for share in (0.0, 0.5, 0.8, 0.95)}
    yield from _against(bench, _in_turn(bench, runs), "0%", "pythia-70m")


def reference_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(e) Where the reference is: an engine of its own, or a cache on disk."""
    for objective in ("sparsepo", "dpo"):
        for ranks, stage in ((1, 0), (2, 3)):
            work = _work(bench, "pythia-70m", FILES["HH"], "fp32")
            cache = bench.scratch / f"cache-{objective}"
            common = {"objective.name": objective, "reference.cache": cache}
            if not cache.exists():
                _write_cache(work, common)
            runs = {
                placement: dataclasses.replace(
                    work, fields={**common, "reference.placement": placement}, zero_stage=stage
                )
                for placement in ("sharded", "replicated", "cached")
            }
            found = _in_turn(bench, runs, dict.fromkeys(runs, ranks))
            for row in _against(bench, found, "sharded", "pythia-70m"):
                yield {"objective": objective, "ranks": ranks, "ZeRO": stage, **row}


def vocabulary_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(f) The vocabulary at a fixed body: memory does not follow it, but for the head's own weights and gradient."""
    runs = {}
    for thousand in (32, 64, 128, 256):
        name = f"{thousand}k"
        folder = bench.scratch / f"vocabulary-{name}"
        if not folder.exists():
            sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
            positions = {"max_position_embeddings": 2048, "vocab_size": 1000 * thousand}
            save_random_model(LlamaConfig(**sizes, **positions, tie_word_embeddings=True), byte_tokenizer(), folder)
        bench.models[name] = folder
        # Kept logits grow up to ops.keep_bytes; without them nothing is left that could follow the vocabulary.
        runs[name] = dataclasses.replace(
            _work(bench, name, FILES["IMDB"], "fp32"), lengths=[16, 64], fields={**SPARSEPO, "ops.keep_bytes": 0}
        )
    found = _in_turn(bench, runs)
    for name, run in found.items():
        yield {"vocabulary": name, "MiB above the states": run.memory / MIB, **run.columns(bench, name, "fp32")}


def memory_rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """(g) What saves memory, and what it costs: full SparsePO against TRL's DPO; one rank."""
    changes: dict[str, dict[str, Any]] = {
        "SparsePO": {},
        "micro-batches of 512 tokens": {"data.tokens_per_micro_batch": 512},
        "micro-batches of one pair": {"data.tokens_per_micro_batch": 1},
        "selective checkpointing": {"model.activation_checkpointing": "selective"},
        "checkpointing": {"model.activation_checkpointing": "true"},
        "one pair, checkpointing": {"data.tokens_per_micro_batch": 1, "model.activation_checkpointing": "true"},
    }
    for name, file in FILES.items():
        work = _work(bench, "smollm2-135m", file, "fp32")
        runs = {"TRL DPO": dataclasses.replace(work, system="trl")}
        runs |= {run: dataclasses.replace(work, fields={**SPARSEPO, **change}) for run, change in changes.items()}
        for row in _against_trl(bench, _in_turn(bench, runs), "smollm2-135m", "fp32"):
            yield {"pairs": name, **row}


TABLES = {
    "trl": trl_rows, "ranks": rank_rows, "prompts": prompt_rows, "sparsity": sparsity_rows,
    "reference": reference_rows, "vocabulary": vocabulary_rows, "memory": memory_rows,
}  # fmt: skip


class Found(NamedTuple):
    """Of one candidate, over all its processes."""

    seconds: float
    """All measured steps of a process: the median over processes."""
    memory: int
    """Above the states; among several ranks, of rank 0 with its states."""
    tokens: list[list[list[int]]]

    def columns(self, bench: Bench, model: str, dtype: str) -> dict[str, Any]:
        """What every table shows."""
        lengths = [pair for step in self.tokens for pair in step]
        packed = sum(prompt + chosen + rejected - 2 for prompt, chosen, rejected in lengths)
        work = necessary_flops(AutoConfig.from_pretrained(bench.models[model]), lengths)
        return {
            "tokens/s": packed / self.seconds,
            "share of matrix rate": work / self.seconds / bench.rates[dtype],
            "MiB": self.memory / MIB,
            "seconds": self.seconds,
        }


def _work(bench: Bench, model: str, file: str, dtype: str) -> Work:
    name = str(DTYPES[dtype]).removeprefix("torch.")
    threads = torch.get_num_threads()
    return Work("ours", str(bench.models[model]), str(bench.data / file), name, steps=bench.steps, threads=threads)


def _in_turn(bench: Bench, runs: Mapping[str, Work], ranks: Mapping[str, int] | None = None) -> dict[str, Found]:
    processes: dict[str, list[Measured]] = {name: [] for name in runs}
    for _ in range(bench.rounds):
        for name, work in runs.items():
            processes[name].append(_measure(work, (ranks or {}).get(name, 1)))
    found = {}
    for name, measured in processes.items():
        seconds = statistics.median(sum(m.seconds) for m in measured)
        alone = (ranks or {}).get(name, 1) == 1
        memory = int(statistics.median(m.peak_bytes - m.state_bytes * alone for m in measured))
        found[name] = Found(seconds, memory, measured[0].tokens)
    return found


def _measure(work: Work, ranks: int) -> Measured:
    threads = max(1, work.threads // ranks)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    described = dataclasses.replace(work, threads=threads)
    return Measured(**found_by("benchmarks.step_worker", described, launcher, OMP_NUM_THREADS=str(threads)))


def _against(bench: Bench, found: Mapping[str, Found], base: str, model: str) -> Iterator[dict[str, Any]]:
    for name, run in found.items():
        yield {
            "run": name, f"time / {base}": run.seconds / found[base].seconds, **run.columns(bench, model, "fp32"),
        }  # fmt: skip


def _against_trl(bench: Bench, found: Mapping[str, Found], model: str, dtype: str) -> Iterator[dict[str, Any]]:
    peer = found["TRL DPO"]
    for name, run in found.items():
        yield {
            "run": name, "time / TRL": run.seconds / peer.seconds, "memory / TRL": run.memory / peer.memory,
            **run.columns(bench, model, dtype),
        }  # fmt: skip


def _write_cache(work: Work, fields: Mapping[str, Any]) -> None:
    options = {
        "model.path": work.model, "training.precision": "fp32", **fields, "all_layers": "true",
        **work.data_fields(),
    }  # fmt: skip
    command = [sys.executable, "launch/cache.py", *(f"--{name}={value}" for name, value in options.items())]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M (default: the one the demo makes)")
    parser.add_argument("--data", type=Path, required=True, help="folder of hh_harmless_base.jsonl, imdb_pairs.jsonl")
    parser.add_argument("--output", type=Path, help="JSON file of every figure; tables already in it are kept")
    parser.add_argument("--only", default=",".join(TABLES), help=f"some of {', '.join(TABLES)}")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each candidate")
    parser.add_argument("--steps", type=int, default=4, help="steps of a process; the first one is not counted")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="ten minutes: of tables trl and ranks what is aimed at, one round",
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.only, arguments.rounds, arguments.steps = "trl,ranks", 1, 3
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    probes = {name: matrix_rate(dtype, device, rounds=3, size=512) for name, dtype in DTYPES.items()}
    left_out = [name for name, rate in probes.items() if rate < LEAST_RATE * probes["fp32"]]
    rates = {name: matrix_rate(DTYPES[name], device) for name in DTYPES if name not in left_out}
    scratch = Path(tempfile.mkdtemp(prefix="sparsepo-bench-"))
    smollm2 = given_or_made(arguments.smollm2)
    models = {"smollm2-135m": smollm2, "pythia-70m": scratch / "pythia-70m"}
    bench = Bench(models, arguments.data.resolve(), scratch, rates, arguments.rounds, arguments.steps, arguments.quick)
    save_random_model(pythia_config("70m"), AutoTokenizer.from_pretrained(smollm2), models["pythia-70m"])
    result: dict[str, Any] = {}
    if arguments.output and arguments.output.exists():
        result = json.loads(arguments.output.read_text())
    result |= {**describe(device), "matrix_flops_per_second": probes | rates, "left_out": left_out}
    for name in tqdm(arguments.only.split(","), desc="tables"):
        result[name] = rows = list(TABLES[name](bench))
        shown = [{column: value for column, value in row.items() if column != "seconds"} for row in rows]
        print(table(str(TABLES[name].__doc__).splitlines()[0], shown), flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
