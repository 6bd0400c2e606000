"""What was counted of a run's data as text: tables in Markdown, aligned, so that a terminal shows them too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparsepo_dist.errors import printable, shortened
from sparsepo_dist.inspection.findings import PERCENTS

_MOST_REASONS = 8


def as_text(summary: Mapping[str, Any]) -> str:
    """The value that `summary` returns."""
    parts = [*_sources(summary)]
    for name in ("train", "heldout"):
        if name in summary:
            parts += _part(name, summary[name])
    if summary["leakage"] is not None:
        leak = summary["leakage"]
        parts += [
            f"## Held-out pairs that training has seen\nOf {leak['pairs']:,}, "
            f"{_share(leak['prompts_in_train'], leak['pairs'])} have the prompt of a training pair, and "
            f"{_share(leak['pairs_in_train'], leak['pairs'])} are one."
        ]
    if summary["stops"]:
        parts += ["## A run with these options would stop\n" + "\n".join(f"- {why}" for why in summary["stops"])]
    return printable("\n\n".join(parts)) + "\n"


def _sources(summary: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [shortened(one["name"], 60), _number(one["rows"]), _number(one["bad_rows"]), _number(one["pairs"])]
        for one in summary["sources"]
    ]
    yield "## Rows\n" + _table(["source", "rows", "bad", "pairs"], rows)
    for one in summary["sources"]:
        named = one["reasons"][:_MOST_REASONS]
        if named:
            lines = [f"- {_number(reason['rows'])} like {shortened(reason['first'], 300)}" for reason in named]
            more = len(one["reasons"]) - len(named)
            yield "\n".join([*lines, *([f"- and {more} more reasons"] if more else [])])


def _part(name: str, part: Mapping[str, Any]) -> list[str]:
    tables = [_tokens(part["tokens"]), _limits(part["limits"]), _computed(part["computed"]), _remarkable(part)]
    titles = ("Tokens, before anything is cut", "What limits cut", "Computed in an epoch", "Worth a look")
    return [f"## {title} ({name})\n{table}" for title, table in zip(titles, tables, strict=True)]


def _tokens(tokens: Mapping[str, Any]) -> str:
    names = ["min", *(f"{percent} %" for percent in PERCENTS[1:-1]), "max", "mean"]
    rows = [
        [name.replace("_", " ").replace("prompt and", "prompt +"), *(_number(values[key]) for key in values)]
        for name, values in tokens.items()
        if values is not None
    ]
    return _table(["tokens", *names], rows)


def _limits(limits: Sequence[Mapping[str, Any]]) -> str:
    notes = {0: " (now)", len(limits) - 1: " (cuts nothing)"}
    rows = [
        [
            f"{_number(one['max_prompt_length'])} / {_number(one['max_length'])}{notes.get(place, '')}",
            *_lost(one["prompts"]), *_lost(one["responses"]),
            _number(one["without_room"]), _number(one["cut_to_the_same"]), _number(one["untrained"]),
        ]
        for place, one in enumerate(limits)
    ]  # fmt: skip
    heads = ["max_prompt_length / max_length", "prompts cut", "tokens off", "responses cut", "tokens off"]
    return (
        _table([*heads, "no room", "alike", "untrained"], rows)
        + "\n\nTokens off: mean and most of what is cut. Where a prompt leaves no room for a response, both responses "
        "are cut to the same tokens (alike), or nothing of one is left that is trained on, a pair is a bad row."
    )


def _lost(lost: Mapping[str, Any]) -> tuple[str, str]:
    if not lost["cut"]:
        return "0", ""
    return _share(lost["cut"], lost["of"]), f"{_number(lost['mean_tokens'])}, {_number(lost['most_tokens'])}"


def _computed(computed: Mapping[str, Any]) -> str:
    rows = [
        [
            layout, _number(one["tokens"]), _number(one["tokens"] / max(computed["pairs"], 1)),
            _number(one["least_micro_batches"]), _number(one["pairs_beyond_a_micro_batch"]),
        ]
        for layout, one in computed["layouts"].items()
    ]  # fmt: skip
    return (
        _table(["layout", "tokens", "a pair", "micro-batches, at least", "longer pairs"], rows)
        + f"\n\n{_number(computed['pairs'])} pairs, one of each row that is left, in micro-batches of up to "
        f"{_number(computed['tokens_per_micro_batch'])} tokens; a longer pair is one by itself."
    )


def _remarkable(part: Mapping[str, Any]) -> str:
    again, sides, scores = part["repetitions"], part["sides"], part["scores"]
    rows = [
        ["pairs that repeat another", _share(again["pairs_again"], part["pairs"])],
        ["rows whose prompt stood in a row before", _share(again["prompts_again"], again["rows"])],
        [
            "pairs that another contradicts: same prompt and response, other side",
            _share(again["contradicted_pairs"], part["pairs"]),
        ],
        ["responses on both sides, whatever the prompt", _number(again["responses_on_both_sides"])],
    ]
    if sides is not None:
        shared = sides["shared_first_tokens"]
        rows += [
            ["pairs whose responses begin alike", _share(shared["pairs"], sides["pairs"])],
            ["first tokens that responses share, mean", _number(shared["mean"])],
            ["chosen longer than rejected", _share(sides["chosen_longer"], sides["pairs"])],
            ["equally long", _share(sides["equally_long"], sides["pairs"])],
            ["chosen minus rejected, mean tokens", f"{sides['mean_difference']:+.1f}"],
        ]
    if scores is not None:
        gap = scores["gap"]
        rows += [
            ["pairs with scores", _share(scores["pairs"], part["pairs"])],
            ["score gap: 5 %, median, 95 %", ", ".join(f"{gap[name]:.3g}" for name in ("p5", "p50", "p95"))],
            ["score ties", _share(scores["ties"], scores["pairs"])],
            ["rejected scored above chosen", _share(scores["negative"], scores["pairs"])],
        ]
    return _table(["what", "number"], rows)


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / max(whole, 1):.1%})" if part else "0"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.1f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, first column to the left, the others to the right."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (heads, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (cells[0], rule, *cells[1:])
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
