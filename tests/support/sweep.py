"""Every family of the installed transformers held against itself in each layout; `make models`
writes the tables of docs/models.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.adapters.lora import add_adapters
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.decoder.logits import logit_map, own_head
from sparsepo_dist.engines.layouts.choice import ModelKind, layout_of
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import MaskConfig, ReferenceReadings
from sparsepo_dist.ops import token_stats
from tests.support.families import NOT_BUILT, families, tiny_config, tiny_model
from tests.support.plain import plain_logps

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
MOST_TOKENS = 32
RIGHT = "right"
TOLERANCE = 2e-4  # nats, in float32


class Verdict(NamedTuple):
    """What is true of a family."""

    layouts: dict[str, str]
    """By layout: `right`, or why it is refused, or how wrong it is."""
    lora: str
    qlora: str
    sites: str
    """Sites of activation masks that are found."""
    tensor_parallel: str

    @property
    def right(self) -> list[str]:
        """Layouts that are right."""
        return [name for name, verdict in self.layouts.items() if verdict == RIGHT]

    @property
    def why(self) -> str:
        """Why not all of them are."""
        return next((verdict for verdict in self.layouts.values() if verdict != RIGHT), "")


def random_pairs(vocabulary: int) -> list[TokenizedPair]:
    """Pairs of uneven lengths, one with a response of a single token."""
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, vocabulary - 5, (count,), generator=generator).tolist())

    return [TokenizedPair(ids(p), ids(c), ids(r)) for p, c, r in ((11, 7, 4), (5, 3, 9), (2, 12, 1))]


def verdict(family: type[PretrainedConfig]) -> Verdict:
    """Build a family's miniature, and hold every layout, adapter and mask to it."""
    tiny = tiny_config(family)
    with TemporaryDirectory() as folder:
        tiny.save_pretrained(folder)
        try:
            load_config(folder)
        except UserError as refusal:
            return Verdict(dict.fromkeys(LAYOUTS, _reason(refusal, folder)), "", "", "", "")
        model = tiny_model(tiny)
        model.save_pretrained(folder)
        config, pairs = load_config(folder), random_pairs(tiny.vocab_size)
        with torch.no_grad():
            truth = plain_logps(model, pairs)
        layouts = {layout: _judged(folder, config, layout, pairs, truth) for layout in LAYOUTS}
        return Verdict(
            layouts,
            _possible(partial(_adapted, folder, config)),
            _possible(partial(_loaded, folder, config, quantised=True)),
            _sites(folder, config),
            "yes" if getattr(model, "_tp_plan", None) else "no",
        )


def _judged(folder: str, config: PretrainedConfig, layout: Layout, pairs: list[TokenizedPair], truth: Tensor) -> str:
    try:
        layout_of(layout, {"model.path": ModelKind.of(config)}, MOST_TOKENS)
        model = _loaded(folder, config, layout)
        batch = pack(pairs, [1.0] * len(pairs), layout)
        with torch.no_grad():
            found = token_stats(hidden_at(backbone(model), batch), own_head(model), batch.labels).policy_logp
    except UserError as refusal:
        return _reason(refusal, folder)
    worst = float((found - truth).abs().max())
    return RIGHT if worst <= TOLERANCE else f"WRONG by {worst:.2g} nats"


def _loaded(
    folder: str, config: PretrainedConfig, layout: Layout = "padded", *, quantised: bool = False
) -> PreTrainedModel:
    return load_model(folder, config, dtype=torch.float32, layout=layout, zero3=None, quantised=quantised).eval()


def _adapted(folder: str, config: PretrainedConfig) -> None:
    add_adapters(_loaded(folder, config), LoraSettings(), torch.float32, base="", start=None, reference=None)


def _sites(folder: str, config: PretrainedConfig) -> str:
    def read(masks: MaskConfig) -> None:
        model = _loaded(folder, config)
        ReferenceReadings(backbone(model), model.get_output_embeddings(), logit_map(model), ("activation",), masks)

    named = {"paper": MaskConfig(), "released": MaskConfig(sites="released")}
    found = [name for name, masks in named.items() if _possible(partial(read, masks)) == "yes"]
    return ", ".join(found) or "by pattern"


def _possible(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except UserError:
        return "no"
    return "yes"


def _reason(refusal: UserError, folder: str) -> str:
    said = str(refusal).replace(f"model.path {folder}: ", "").partition(". Right is ")[0]
    for layout in LAYOUTS:
        said = said.removeprefix(f"data.layout {layout}: ")
    said = re.sub(r"of an? [\w-]+ model \(model.path\), ", "", said)
    # What is a number of the miniature's.
    said = re.sub(r"reaches \d+ tokens", "reaches no further than a window", said)
    return re.sub(r",? and data.max_length is \d+", "", said)


def row(kind: str, found: Verdict) -> str:
    """The table's line of a family."""
    if not found.right:
        return f"| {kind} | {found.why} |"
    layouts = "all" if found.right == list(LAYOUTS) else ", ".join(found.right)
    more = " | ".join((found.lora, found.qlora, found.sites, found.tensor_parallel, found.why))
    return f"| {kind} | {layouts} | {more} |"


def kinds() -> dict[str, type[PretrainedConfig]]:
    """Configurations of decoders by `model_type`: that of the text part, of a composite."""
    found = {family: tiny_config(family).model_type for family in families() if family.__name__ not in NOT_BUILT}
    return {kind: family for family, kind in sorted(found.items(), key=lambda item: item[1])}


TABLES = """## Trained

| model_type | layouts | LoRA | QLoRA | MaPO | tensor plan | why not the others |
| --- | --- | --- | --- | --- | --- | --- |
{trained}

## Refused

| model_type | why |
| --- | --- |
{refused}

## Not tried

| configuration | why |
| --- | --- |
{untried}
"""


def tables() -> str:
    """What follows the introduction of docs/models.md."""
    found = {kind: verdict(family) for kind, family in kinds().items()}
    lines = {kind: row(kind, of) for kind, of in found.items()}
    return TABLES.format(
        trained="\n".join(lines[kind] for kind, of in found.items() if of.right),
        refused="\n".join(lines[kind] for kind, of in found.items() if not of.right),
        untried="\n".join(f"| {name} | {why} |" for name, why in sorted(NOT_BUILT.items())),
    )


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    page = Path(__file__).resolve().parents[2] / "docs" / "models.md"
    page.write_text(page.read_text(encoding="utf-8").partition("## Trained")[0] + tables(), encoding="utf-8")
