"""A page of tables and figures. Everything is in it: no scripts, and nothing is fetched."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}h3{font-size:1rem;margin:1rem 0 .2rem}
h4{font-size:.85rem;margin:.5rem 0 0}small{font-weight:400;color:#555}img{max-width:100%;height:auto}
table{border-collapse:collapse}td,th{padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top}
.prompt{color:#555}.tokens{margin:.1rem 0;line-height:1.9}.tokens span{padding:.1rem 0;white-space:pre-wrap}
.zero{border-bottom:1px dotted #777}pre{overflow:auto;background:#f6f6f6;padding:.8rem}
@media print{span{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def document(title: str, body: str, style: str = "") -> str:
    """A whole page; `style` is added to the reports' own."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}{style}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def image(path: Path) -> str:
    """A PNG within the page, called by its file's name. Raises OSError where it cannot be read."""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{content}">'
