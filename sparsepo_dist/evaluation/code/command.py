"""The command line of `evaluation/code.py`: generate, execute, or one after the other."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from sparsepo_dist.disk import sha256, write_whole
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.arguments import positive
from sparsepo_dist.evaluation.code.bigcode import PRECISIONS, Harness, find_harness
from sparsepo_dist.evaluation.code.execution import execute, scored, summarise, verdict_lines
from sparsepo_dist.evaluation.code.generation import (
    Generation,
    Imported,
    Source,
    generations,
    problems_of,
    settings_of,
    stored,
)
from sparsepo_dist.evaluation.code.imported import imported, statements
from sparsepo_dist.evaluation.code.own_problems import OwnProblems, digest, read_exercises
from sparsepo_dist.evaluation.code.plus import PLUS_LIMITS, plus_statements
from sparsepo_dist.evaluation.code.table import write_table
from sparsepo_dist.evaluation.code.tasks import BENCHMARKS, KS, OWN, PLUS, Problem
from sparsepo_dist.evaluation.hub_mirror import check_mirror
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.evaluation.sandbox.self_test import check_machine
from sparsepo_dist.evaluation.target import Target, target
from sparsepo_dist.files import argument, path_argument
from sparsepo_dist.sampling.backends import TRANSFORMERS, check_backend

Say = Callable[[str], None]
Make = Callable[[str], list[Problem]]
LIMITS = Limits()


def parser() -> argparse.ArgumentParser:
    """All options, with the paper's settings as defaults."""
    made = argparse.ArgumentParser(
        prog="evaluation/code.py",
        description="HumanEval and MBPP: sample programs or import them, run them against their tests in a sandbox, "
        "estimate pass@k.",
    )
    add = made.add_argument
    add("step", nargs="?", choices=["generate", "execute"], help="one step only (default: both); execute takes "
        "the same options as generate did")  # fmt: skip
    add("--model", type=argument, required=True, help="a run's folder, a model's, an adapter's, or a hub id")
    add(
        "--base",
        type=argument,
        help="the model that an adapter belongs on, where it is no longer where the adapter says",
    )
    add("--output", type=path_argument, required=True, help="folder of generations, results and the table")
    add("--tasks", nargs="+", choices=[*BENCHMARKS, *PLUS], default=list(BENCHMARKS), help="default: humaneval mbpp; "
        "those with + are EvalPlus's, which has to be installed: humaneval+ takes humaneval's programs, mbpp+ those of "
        "--generations")  # fmt: skip
    add("--backend", choices=["harness", "lm-eval", "vllm", TRANSFORMERS], default="harness", help="BigCode's harness "
        "(the paper's), or lm-eval's tasks, whose prompts are others, on transformers (lm-eval) or on vLLM; of "
        "--problems transformers, or vllm")  # fmt: skip
    add("--problems", type=argument, metavar="FILE", help="problems of a file in place of --tasks, which need neither "
        "harness nor hub: prompts.jsonl of `sparsepo prepare code`")  # fmt: skip
    add("--harness", type=path_argument, help="a checkout of bigcode-evaluation-harness (default: the installed one); "
        "its code is run with your rights, outside the sandbox: name one that you trust")  # fmt: skip
    add("--n_samples", type=int, default=100, help="programs a problem (100)")
    add("--temperature", type=float, default=0.6, help="0.6; 0 takes the likeliest token, for one sample")
    add("--top_p", type=float, default=0.95, help="nucleus sampling (0.95)")
    add("--batch_size", type=int, default=10, help="programs sampled at once (10); vLLM decides by itself")
    add("--max_length_generation", type=int, help="tokens of prompt and program (harness, 512), of the "
        "program (else, the task's own)")  # fmt: skip
    add("--limit", type=int, help="the first problems only, for a smoke run")
    add("--seed", type=int, default=0)
    add("--dtype", choices=["auto", *PRECISIONS], default="auto", help="of the model (auto: bfloat16 where the machine "
        "multiplies it, else float32)")  # fmt: skip
    add("--hub-mirror", type=path_argument, help="folder of mirrored datasets: works without a network")
    add("--generations", type=path_argument, metavar="FILE", help="programs made elsewhere, of one task: BigCode's "
        'list of lists, or lines of {"task_id", "completion" or "solution"}; nothing is sampled')  # fmt: skip
    add("--k", type=positive, nargs="+", default=list(KS), metavar="K", help="of pass@k (1 10 100)")
    add("--log_samples", action="store_true", help="keep each program with its verdict, in OUTPUT/samples_TASK.jsonl")
    add("--allow_code_execution", action="store_true", help="run what the model wrote, in the sandbox")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="programs run at once (one a core)")
    return made


def main(arguments: Sequence[str], say: Say) -> None:
    """Both steps, or the one that is named.

    Raises:
        UserError: wrong options; execution that was not allowed, or cannot be confined on this machine.
        RunError: the harness failed.
    """
    options = parser().parse_args(arguments)
    options.k = list(dict.fromkeys(options.k))
    source = _generation(options) if options.generations is None else _imported(options)
    evaluated = target(options.model, base=options.base)
    programs = generations(options.output, evaluated, source)
    if options.step != "generate":
        if not options.allow_code_execution:
            raise UserError(_not_allowed(options, evaluated, source, programs))
        check_machine(LIMITS)
    if options.step != "execute":
        _generate(options, evaluated, source, programs, say)
    if options.step != "generate":
        _execute(options, evaluated, source, programs, say)


def _generation(options: argparse.Namespace) -> Generation:
    problems = _problems_of_file(options)
    for name, least in {"n_samples": 1, "batch_size": 1, "limit": 1, "max_length_generation": 1, "workers": 1}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: at least {least} is needed")
    if options.temperature < 0 or not 0 < options.top_p <= 1:
        raise UserError(
            f"--temperature {options.temperature:g} --top_p {options.top_p:g}: the temperature must be at least 0, "
            "top_p above 0 and at most 1"
        )
    if options.temperature == 0 and options.n_samples > 1:
        raise UserError(f"--temperature 0 makes all {options.n_samples} samples the same: add --n_samples 1")
    if "mbpp+" in options.tasks:
        raise UserError(
            "--tasks mbpp+: its prompts are EvalPlus's own: have `evalplus.codegen` make the programs, and give them "
            "with --generations FILE.jsonl"
        )
    values = {name: getattr(options, name) for name in Generation._fields}
    dtype = _dtype() if options.dtype == "auto" else options.dtype
    return Generation(**{**values, "dtype": dtype, "problems": problems})


def _problems_of_file(options: argparse.Namespace) -> str | None:
    """The digest of --problems, for which tasks and backend are settled; None where it is not given. Raises UserError
    where options do not go together."""
    if options.problems is None:
        if options.backend == TRANSFORMERS:
            raise UserError(f"--backend {TRANSFORMERS} is for --problems; lm-eval samples by transformers, too")
        return None
    for name in ("tasks", "harness", "hub_mirror", "dtype"):
        if getattr(options, name) != parser().get_default(name):
            raise UserError(f"--{name} and --problems are both given, and do not go together")
    if options.backend == "lm-eval":
        raise UserError(f"--backend lm-eval has problems of its own; --problems take {TRANSFORMERS} or vllm")
    if options.temperature == 0:
        raise UserError("--temperature 0: programs for --problems are drawn; it must be above 0")
    options.tasks = [OWN]
    options.backend = TRANSFORMERS if options.backend == "harness" else options.backend
    return digest(read_exercises(options.problems, options.limit))


def _imported(options: argparse.Namespace) -> Imported:
    if len(options.tasks) != 1:
        raise UserError("--generations: a file holds one benchmark's programs: say which with --tasks TASK")
    for name in ("backend", "harness", *(set(Generation._fields) - {"backend", "limit"}), "batch_size"):
        if getattr(options, name) != parser().get_default(name):
            raise UserError(f"--{name} says how programs are sampled, and those of --generations are: leave it out")
    if not options.generations.is_file():
        raise UserError(f"--generations: there is no file {options.generations}")
    return Imported(options.generations.resolve(), sha256(options.generations), options.limit)


def _dtype() -> str:
    import torch

    from sparsepo_dist.engines.deepspeed.ds_config import has_bf16

    return "bfloat16" if has_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")) else "float32"


def _generate(options: argparse.Namespace, evaluated: Target, source: Source, programs: Results, say: Say) -> None:
    if options.hub_mirror is not None:
        check_mirror(options.hub_mirror)
    origin, make = (
        _imports(source, options) if isinstance(source, Imported) else _samples(source, options, evaluated, say)
    )
    for task in dict.fromkeys(stored(task, source) for task in options.tasks):
        if programs.finished(task) is not None:
            say(f"{task}: generated before, in {programs.path(task)}")
            continue
        problems = make(task)
        path = programs.write(task, {**origin, "problems": [problem._asdict() for problem in problems]})
        say(f"{task}: {sum(len(problem.programs) for problem in problems)} programs in {path}")


def _imports(source: Imported, options: argparse.Namespace) -> tuple[dict[str, Any], Make]:
    """What is said of the file in results, and what reads it."""

    def make(task: str) -> list[Problem]:
        return imported(source.file, task, statements(task, options.hub_mirror), source.limit)

    return {"file": str(source.file)}, make


def _samples(
    generation: Generation, options: argparse.Namespace, evaluated: Target, say: Say
) -> tuple[dict[str, Any], Make]:
    """What is said of the backend in results, and what samples programs."""
    check_backend(generation.backend)
    mirror = options.hub_mirror
    from sparsepo_dist.evaluation.code.lm_eval_backend import LmEval  # torch, which the other step can do without

    if generation.problems is not None:
        exercises = read_exercises(options.problems, options.limit)
        return {}, OwnProblems(evaluated, generation, options.batch_size, exercises).generate
    if generation.backend != "harness":
        return {}, LmEval(evaluated, generation, options.batch_size, mirror).generate
    folder = generations(options.output, evaluated, generation).folder
    backend = Harness(find_harness(options.harness), evaluated, generation, options.batch_size, mirror, folder)
    say(
        f"{backend.main} samples the programs: code of that folder (commit {backend.commit or 'unknown'}), run "
        "with your rights and outside the sandbox."
    )
    return {"harness": str(backend.main), "harness_commit": backend.commit}, backend.generate


def _execute(options: argparse.Namespace, evaluated: Target, source: Source, programs: Results, say: Say) -> None:
    scores: dict[str, Any] = {}
    for task in options.tasks:
        limits = PLUS_LIMITS if task in PLUS else LIMITS
        results = Results(options.output, evaluated, {**settings_of(source), "limits": limits._asdict()})
        kept = results.folder / f"samples_{task}.jsonl"
        found = results.finished(task)
        if found is None or (options.log_samples and not kept.is_file()):
            problems = _problems(programs, task, source)
            verdicts = execute(problems, limits, workers=options.workers, title=task)
            if options.log_samples:
                write_whole(kept, verdict_lines(problems, verdicts))
            found = summarise(verdicts)
            results.write(task, scored(found, options.k))
        scores[task] = scored(found, options.k)
    folder = options.output.resolve()
    say(write_table(folder, evaluated.name, scores, _in_words(source), options.k))
    say(f"The table is in {folder / 'code.md'} and code.json, each task's result beside it.")


def _problems(programs: Results, task: str, source: Source) -> list[Problem]:
    """A task's programs and tests. Raises UserError where they were not generated."""
    name = stored(task, source)
    found = programs.finished(name)
    if found is None:
        raise UserError(f"{programs.path(name)} is not there: run `generate` first, with the same options")
    problems = problems_of(found)
    if name == task:
        return problems
    more = plus_statements(task)
    if len(problems) > len(more):
        raise UserError(f"{programs.path(name)} has {len(problems)} problems, and {PLUS[task]} has {len(more)}")
    return [Problem(each.programs, statement.tests) for each, statement in zip(problems, more, strict=False)]


def _not_allowed(options: argparse.Namespace, evaluated: Target, source: Source, programs: Results) -> str:
    names = dict.fromkeys(stored(task, source) for task in options.tasks)
    there = {task: found for task in names if (found := programs.finished(task)) is not None}
    count = sum(len(problem.programs) for found in there.values() for problem in problems_of(found))
    what = f"{count} programs in {programs.folder} ({', '.join(there)})"
    if len(there) < len(names):
        number = source.n_samples if isinstance(source, Generation) else f"{source.file}'s"
        what = f"{number} programs for each problem of {' and '.join(options.tasks)}"
    limits = PLUS_LIMITS if any(task in PLUS for task in options.tasks) else LIMITS
    return (
        f"this would run {what}, written by {evaluated.name}, on this machine: {limits.said()}. Add "
        "--allow_code_execution to allow it; `generate` alone runs nothing"
    )


def _in_words(source: Source) -> str:
    if isinstance(source, Imported):
        of = "" if source.limit is None else f"; only the first {source.limit} problems"
        return f"Programs of {source.file}, generated elsewhere (SHA-256 {source.sha256}){of}."
    generation = source
    sampled = (
        f"temperature {generation.temperature:g}, top-p {generation.top_p:g}" if generation.temperature else "greedy"
    )
    limited = "" if generation.limit is None else f"; only the first {generation.limit} problems"
    samples = f"{generation.n_samples} sample{'s' if generation.n_samples > 1 else ''} a problem"
    how = f"{sampled}, {generation.dtype}, seed {generation.seed}{limited}"
    return f"Measured with {generation.backend}: {samples}, {how}."
