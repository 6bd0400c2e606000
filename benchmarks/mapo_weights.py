"""What MaPO's weights are by mapping, and what negative ones do: `python -m benchmarks.mapo_weights`.

On SmolLM2-135M and prompts and responses of the project's own documents. Of every mapping: the share of negative
weights, and what one step on the loss does to tokens of the chosen responses, by the sign of their weight.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsepo_dist.builtin.smollm2 import smollm2_folder
from sparsepo_dist.contracts import PackedBatch, TokenizedPair, TokenMasks, TokenStats
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.decoder.logits import logit_map
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.masks import MaskConfig, ReferenceReadings, activation_masks
from sparsepo_dist.objectives import ObjectiveConfig, build_objective
from sparsepo_dist.ops import Head, token_stats

ROOT = Path(__file__).resolve().parents[1]
PAIRS, RESPONSE_TOKENS, PROMPT_WORDS = 8, 24, 6
STEP = 2e-6  # of the norm of all weights: so small that its first order is what shows
MAPPINGS = {
    "standardise": MaskConfig(),
    "standardise, clip": MaskConfig(clip=True),
    "rescale": MaskConfig(normalisation="rescale"),
    "sigmoid": MaskConfig(normalisation="sigmoid"),
    "layernorm": MaskConfig(normalisation="layernorm"),
}


def read_pairs(folder: Path) -> list[TokenizedPair]:
    """Sentences of the documents: one after a prompt of its own words, against the next one's."""
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    lines = " ".join(line for line in text.splitlines() if not line.startswith(("|", " ", "#")))
    sentences = [part for part in lines.split(". ") if part.count(" ") > 2 * PROMPT_WORDS]
    tokenizer = load_tokenizer(str(folder))
    pairs = []
    for first, second in zip(sentences[: 2 * PAIRS : 2], sentences[1 : 2 * PAIRS : 2], strict=True):
        prompt, chosen, rejected = (
            tuple(tokenizer(" ".join(part), add_special_tokens=False).input_ids)
            for part in (first.split()[:PROMPT_WORDS], first.split()[PROMPT_WORDS:], second.split()[PROMPT_WORDS:])
        )
        pairs.append(TokenizedPair(prompt, chosen[:RESPONSE_TOKENS], rejected[:RESPONSE_TOKENS]))
    return pairs


@torch.no_grad()
def mask_of(model: PreTrainedModel, config: MaskConfig, batch: PackedBatch) -> Tensor:
    """[N]: the weights."""
    head = model.get_output_embeddings()
    readings = ReferenceReadings(backbone(model), head, logit_map(model), ("activation",), config)
    with readings.collect(batch.predict_index) as collected:
        final = hidden_at(backbone(model), batch)
    means = collected.outputs(final).site_means
    assert means is not None
    return activation_masks(means, readings.site_types, batch.sequence_id, batch.pairs, config)


def changes(folder: Path, config: MaskConfig, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """[N] each: the weights, and how far one step on the loss moves each token's log-probability, in nats."""
    model = load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout="packed", zero3=None).eval()
    mask = mask_of(model, config, batch)
    head = model.get_output_embeddings()

    def stats(reference: Tensor) -> TokenStats:
        frozen = Head(head.weight.detach().clone())
        return token_stats(
            hidden_at(backbone(model), batch), Head(head.weight), batch.labels, reference, frozen, divergence="policy"
        )

    with torch.no_grad():
        reference = hidden_at(backbone(model), batch)
    before = stats(reference)
    objective = build_objective(ObjectiveConfig(name="mapo", beta=0.5))
    objective(before, TokenMasks(mask, mask, common=True), batch.responses).losses.mean().backward()
    parameters = [p for p in model.parameters() if p.grad is not None]
    size = torch.nn.utils.get_total_norm([p.detach() for p in parameters])
    gradient = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    with torch.no_grad():
        for parameter in parameters:
            parameter -= STEP * size / gradient * parameter.grad
        after = stats(reference)
    return mask, after.policy_logp.detach() - before.policy_logp.detach()


def main() -> None:
    """Print the table of docs/objectives.md."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = smollm2_folder()
    batch = pack(read_pairs(folder), [1 / PAIRS] * PAIRS, "packed")
    chosen = batch.sequence_id % 2 == 0
    print(f"{len(chosen)} response tokens of {PAIRS} pairs; changes of the chosen ones' log pi, in nats")
    print(
        "| mapping | negative weights | mean weight | change where positive | where negative |\n" + "| --- " * 5 + "|"
    )
    for name, config in MAPPINGS.items():
        mask, change = changes(folder, config, batch)
        cells = [f"{(mask < 0).float().mean():.0%}", f"{mask.mean():.3f}"]
        for part in (chosen & (mask > 0), chosen & (mask < 0)):
            cells.append(f"{change[part].mean():+.3f}" if part.any() else "none")
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
