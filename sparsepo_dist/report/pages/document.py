"""A page as one HTML document: scripts, styles and data are within it, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).with_name("assets")
_SCRIPTS = ("uplot.min.js", "page.js", "charts.js", "histograms.js", "heatmaps.js", "start.js")
_STYLES = ("uplot.min.css", "report.css")


def document(title: str, body: str, data: Mapping[str, Any]) -> str:
    """The whole page.

    Scripts and styles are allowed by their digests alone, and no address is: markup that got past all escaping could
    neither run nor fetch anything.

    Args:
        body: HTML, in which all that comes from runs is escaped.
        data: what the scripts draw, plain JSON.
    """
    scripts, styles = ([(ASSETS / name).read_text(encoding="utf-8") for name in names] for names in (_SCRIPTS, _STYLES))
    allowed = {"script-src": scripts, "style-src": styles}
    policy = "; ".join(
        ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
        + [f"{kind} {' '.join(map(_digest, texts))}" for kind, texts in allowed.items()]
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy, quote=True).replace("&#x27;", chr(39))}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        + "".join(f"<style>{text}</style>" for text in styles)
        + f"</head><body><h1>{escape(title)}</h1>{body}"
        '<noscript><p class="running">The charts and heat maps are drawn by the script within this page: allow it to '
        "run.</p></noscript>"
        f'<script type="application/json" id="data">{embedded(data)}</script>'
        + "".join(f"<script>{text}</script>" for text in scripts)
        + "</body></html>\n"
    )


def embedded(data: Any) -> str:
    """JSON that can stand between script tags, whatever texts it holds: no `<`, `>` or `&`, and ASCII only."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
