"""Tokens on the colours of their values, after the paper's Figures 1, 4 and 9."""

from __future__ import annotations

import math
import re
from html import escape

_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
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
    """Escaped, with line breaks made visible, and marks that would turn the tokens behind them round; spaces stay, so
    that words read on."""
    shown = _TURNING.sub(lambda mark: f"\u27e8U+{ord(mark[0]):04X}\u27e9", escape(text))
    return shown.replace("\n", "\u21b5<wbr>").replace("\t", "\u21e5") or "\u2205"
