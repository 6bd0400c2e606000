"""Token-level heat maps of single responses, after the paper's Figures 1, 4 and 9, as self-contained HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
BLUE: Colour = (0, 114, 178)
ORANGE: Colour = (213, 94, 0)
GREEN: Colour = (0, 128, 96)
ROWS = (
    ("reward", "Reward", "beta x mask x log-ratio", True),
    ("kl", "KL", "nats per token", False),
    ("reward_mask", "Reward mask", "weight", False),
    ("divergence_mask", "Divergence mask", "weight", False),
)


def heatmaps(rows: Sequence[dict[str, Any]]) -> str:
    """One section per pair; chosen and rejected share their scales."""
    return "\n".join(_pair(number, list(group)) for number, group in groupby(rows, key=lambda row: row["pair"]))


def _pair(number: int, responses: list[dict[str, Any]]) -> str:
    scales = {
        name: max((abs(v) for response in responses for v in response.get(name, ()) if math.isfinite(v)), default=0.0)
        for name, *_ in ROWS
    }
    body = "\n".join(_response(response, scales) for response in responses)
    prompt = f'<p class="prompt"><b>Prompt</b> {readable(responses[0]["prompt"])}</p>'
    return f"<section><h2>Pair {number + 1}</h2>{prompt}{body}</section>"


def _response(response: dict[str, Any], scales: dict[str, float]) -> str:
    parts = [f"<h3>{escape(response['branch'].capitalize())}</h3>"]
    for name, title, unit, signed in ROWS:
        if name not in response:
            continue
        values = response[name]
        zeros = sum(v == 0 for v in values)
        low = -scales[name] if signed else 0.0
        scale = f"{low:.3g} to {scales[name]:.3g} {unit}; {zeros} of {len(values)} tokens exactly 0"
        spans = "".join(
            token_span(token, value, scales[name], signed=signed)
            for token, value in zip(response["tokens"], values, strict=True)
        )
        parts.append(f'<div class="row"><h4>{title} <small>{scale}</small></h4><p class="tokens">{spans}</p></div>')
    return "".join(parts)


def token_span(token: str, value: float, scale: float, *, signed: bool, number: float | None = None) -> str:
    """A token on the colour of its value; `number` is shown instead where the value is a scaled one."""
    number = value if number is None else number
    colour = token_colour(value, scale, signed=signed)
    style = f"background:rgb{colour};color:{'#fff' if _luminance(colour) < 0.4 else '#000'}"
    zero = ' class="zero"' if number == 0 else ""
    return f'<span{zero} style="{style}" title="{number:.4g}">{readable(token)}</span>'


def token_colour(value: float, scale: float, *, signed: bool) -> Colour:
    """White at 0, blue for positive and orange for negative numbers; unsigned numbers run from white to green.

    NaN is white.
    """
    strength = min(1.0, abs(value) / scale) if scale and not math.isnan(value) else 0.0
    end = (BLUE if value > 0 else ORANGE) if signed else GREEN
    red, green, blue = (round(w + (e - w) * strength) for w, e in zip(WHITE, end, strict=True))
    return red, green, blue


def _luminance(colour: Colour) -> float:
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def readable(text: str) -> str:
    """Escaped, with line breaks made visible; spaces stay, so that words read on."""
    return escape(text).replace("\n", "\u21b5<wbr>").replace("\t", "\u21e5") or "\u2205"
