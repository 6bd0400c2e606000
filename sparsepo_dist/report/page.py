"""The two pages of a report. Everything is in them: no scripts, and nothing is fetched."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from sparsepo_dist.report.heatmap import heatmaps
from sparsepo_dist.report.interval import accuracy_in_words
from sparsepo_dist.report.reading import RunFiles

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


def tokens_page(run: RunFiles) -> str:
    """Heat maps of the responses in tokens.jsonl."""
    legend = (
        "<p>Each response is shown once per quantity. Reward: blue tokens are rewarded, orange ones penalised. "
        "Other rows: the greener, the larger. Dotted underline: exactly 0. Hover a token for its number.</p>"
    )
    return document(f"Tokens of {run.folder.name}", legend + heatmaps(run.tokens))


def index_page(run: RunFiles, figures: list[Path]) -> str:
    """Results, figures, links and the resolved configuration."""
    images = "".join(
        f'<p><img alt="{path.stem} over steps" src="data:image/png;base64,{encoded(path)}"></p>' for path in figures
    )
    parts = [
        _evaluation(run.evaluation) if run.evaluation else "",
        _accuracy(run),
        '<p><a href="tokens.html">Token-level heat maps</a></p>' if run.tokens else "",
        f"<h2>Over the steps</h2>{images}" if images else "",
        f"<h2>Configuration</h2><details><summary>config.yaml</summary><pre>{escape(run.config)}</pre></details>",
    ]
    return document(f"Run {run.folder.name}", "".join(parts))


def _accuracy(run: RunFiles) -> str:
    words = accuracy_in_words(run.last("final") or run.last("eval"))
    return "" if words is None else f"<p>Held-out pairs, chosen above rejected: {escape(words)}.</p>"


def _evaluation(result: dict[str, Any]) -> str:
    difference = result["difference"]
    rows = [
        ("Mean reward of the reference", f"{result['reference']['mean_reward']:.3f}"),
        ("Mean reward of the trained model", f"{result['trained']['mean_reward']:.3f}"),
        (
            "Difference, 95 % bootstrap interval",
            f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]",
        ),
        ("Response-level KL", f"{result['response_kl']:.2f} nats"),
        *((f"Sparsity of the {name}", f"{value:.1%}") for name, value in result["sparsity"].items()),
    ]
    table = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    examples = "".join(
        f"<tr><td>{escape(before['prompt'])}</td><td>{escape(before['response'])} <small>{before['reward']:+.2f}"
        f"</small></td><td>{escape(after['response'])} <small>{after['reward']:+.2f}</small></td></tr>"
        for before, after in zip(result["reference"]["examples"], result["trained"]["examples"], strict=True)
    )
    scope = f"{result['prompts']} unseen prompts x {result['samples_per_prompt']} samples; {result['scorer']}"
    return (
        f"<h2>Results</h2><p>{escape(scope)}</p><table>{table}</table><h2>First samples, with their rewards</h2>"
        f"<table><tr><th>Prompt</th><th>Reference</th><th>Trained</th></tr>{examples}</table>"
    )


def encoded(path: Path) -> str:
    """A file as base64, as data: URLs have it."""
    return base64.b64encode(path.read_bytes()).decode()
