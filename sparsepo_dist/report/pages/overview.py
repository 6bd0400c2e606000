"""The top of the page in HTML: runs beside each other, what differs between them, what is missing, samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from sparsepo_dist.errors import shortened
from sparsepo_dist.files import leaves
from sparsepo_dist.report.interval import accuracy_in_words
from sparsepo_dist.report.pages.shown import ShownRun

_LEFT_OUT = ("output_dir", "resume", "overwrite")


def overview(runs: Sequence[ShownRun]) -> str:
    """A column for each run: how far it is, what it is, its last numbers."""
    lines: list[tuple[str, Callable[[ShownRun], str]]] = [
        ("State", lambda run: run.state()),
        ("Model", lambda run: str(run.settings.get("model", {}).get("path", ""))),
        ("Objective", _objective),
        ("Learning rate", lambda run: str(run.settings.get("training", {}).get("learning_rate", ""))),
        ("Held-out pairs, chosen above rejected", lambda run: accuracy_in_words(_heldout(run)) or ""),
        ("Held-out margin", lambda run: _number(_heldout(run).get("rewards/margins"))),
        ("Held-out loss", lambda run: _number(_heldout(run).get("loss"))),
        ("Held-out KL per chosen response", lambda run: _number(_heldout(run).get("kl/chosen"))),
        ("Reward mask, tokens at 0", lambda run: _share(_heldout(run).get("sparsity/reward_mask/chosen"))),
        ("Divergence mask, tokens at 0", lambda run: _share(_heldout(run).get("sparsity/divergence_mask/chosen"))),
    ]
    rows = [(name, [_cell(run, of, name) for run in runs]) for name, of in lines]
    return _table(_heads(runs), [row for row in rows if any(row[1])])


def _cell(run: ShownRun, of: Callable[[ShownRun], str], name: str) -> str:
    css = ' class="running"' if name == "State" and not run.finished else ""
    return f"<span{css}>{escape(text)}</span>" if (text := of(run)) else ""


def missing(runs: Sequence[ShownRun]) -> str:
    """What the page cannot show, by run; empty where it shows all."""
    items = [(run.name, what) for run in runs for what in run.missing()]
    if not items:
        return ""
    listed = "".join(f"<li>{escape(name)}: {escape(what)}</li>" for name, what in items)
    return f'<details class="missing" open><summary>Still missing</summary><ul>{listed}</ul></details>'


def differences(runs: Sequence[ShownRun]) -> str:
    """Options whose values differ between the runs."""
    values = [dict(leaves(run.settings)) for run in runs]
    names = [name for name in dict.fromkeys(name for one in values for name in one) if name not in _LEFT_OUT]
    rows = []
    for name in names:
        texts = [shortened(str(one.get(name, "—"))) for one in values]
        if len(set(texts)) > 1:
            rows.append((name, [escape(text) for text in texts]))
    return f"<h2>What differs</h2>{_table(_heads(runs), rows)}" if rows else ""


def configurations(runs: Sequence[ShownRun]) -> str:
    """Every run's config.yaml, folded up."""
    texts = "".join(
        f"<details><summary>{escape(run.name)}</summary><pre>{escape(run.files.config)}</pre></details>"
        for run in runs
        if run.files.config
    )
    return f"<h2>Configuration</h2>{texts}" if texts else ""


def rewards(runs: Sequence[ShownRun]) -> str:
    """Rewards of samples before and after, and the samples, where a run was evaluated so."""
    evaluated = [(number, run, run.files.evaluation) for number, run in enumerate(runs)]
    having = [(number, run, found) for number, run, found in evaluated if found is not None]
    if not having:
        return ""
    heads = [_swatch(number) + escape(run.name) for number, run, _ in having]
    rows: dict[str, list[str]] = {}
    for place, (_, _, found) in enumerate(having):
        for name, text in _reward_lines(found):
            rows.setdefault(name, [""] * len(having))[place] = escape(text)
    return f"<h2>Samples before and after</h2>{_table(heads, list(rows.items()))}{_samples(having)}"


def _reward_lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    difference = found["difference"]
    return [
        ("Scorer", str(found["scorer"])),
        ("Unseen prompts x samples", f"{found['prompts']} x {found['samples_per_prompt']}"),
        ("Mean reward of the reference", f"{found['reference']['mean_reward']:.3f}"),
        ("Mean reward of the trained model", f"{found['trained']['mean_reward']:.3f}"),
        (
            "Difference, 95 % bootstrap interval",
            f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]",
        ),
        ("Response-level KL", f"{found['response_kl']:.2f} nats"),
        *((f"Sparsity of the {name}", f"{value:.1%}") for name, value in found["sparsity"].items()),
    ]


def _samples(having: Sequence[tuple[int, ShownRun, dict[str, Any]]]) -> str:
    """A row for each prompt and response before; beside it the response after, of each run that began there."""
    rows: dict[tuple[str, str], list[str]] = {}
    for place, (_, _, found) in enumerate(having):
        for before, after in zip(found["reference"]["examples"], found["trained"]["examples"], strict=True):
            key = (escape(before["prompt"]), _sample(before))
            rows.setdefault(key, [""] * len(having))[place] = _sample(after)
    heads = "".join(f"<th>After: {_swatch(number)}{escape(run.name)}</th>" for number, run, _ in having)
    body = "".join(
        f"<tr><td>{prompt}</td><td>{before}</td>{''.join(f'<td>{cell}</td>' for cell in after)}</tr>"
        for (prompt, before), after in rows.items()
    )
    return f'<div class="wide"><table><tr><th>Prompt</th><th>Before</th>{heads}</tr>{body}</table></div>'


def _sample(example: dict[str, Any]) -> str:
    return f'<span class="sample">{escape(example["response"])}</span> <small>{example["reward"]:+.2f}</small>'


def _objective(run: ShownRun) -> str:
    found = run.settings.get("objective", {})
    beta = found.get("beta")
    return str(found.get("name", "")) + ("" if beta is None else f", beta {beta}")


def _heldout(run: ShownRun) -> dict[str, Any]:
    return run.files.last("final") or run.files.last("eval")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _share(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else ""


def _heads(runs: Sequence[ShownRun]) -> list[str]:
    return [_swatch(number) + escape(run.name) for number, run in enumerate(runs)]


def _swatch(number: int) -> str:
    return f'<span class="swatch" data-run="{number}"></span>'


def _table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table with names of rows before the cells; heads and cells are HTML."""
    head = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in rows
    )
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{body}</table></div>'
