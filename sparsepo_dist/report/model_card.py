"""The model card of a trained model: what it is, how it was made, what was measured, how to use it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sparsepo_dist.report.interval import accuracy_in_words
from sparsepo_dist.report.reading import RunFiles

_CARD = """---
library_name: {library}
pipeline_tag: text-generation
{base_model}tags: [sparsepo_dist, preference-optimization, {objective}]
---

# {name}

{base}, aligned with `{objective}` by [sparsepo_dist](https://arxiv.org/abs/2410.05102).

## Use

```python
from transformers import {loader}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = {loader}.from_pretrained("FOLDER")
inputs = tokenizer("Honestly, the film was", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40, do_sample=True)[0]))
```

{adapter}{masks}## Training

{training}

## Results

{results}

## Citation

SparsePO: Controlling Preference Alignment of LLMs via Sparse Token Masks, arXiv:2410.05102.
"""

_ADAPTER = """The folder holds a LoRA adapter in peft's format; transformers loads it onto {base} by itself where
peft is installed. `sparsepo merge FOLDER OUTPUT` writes both as one full model.{quantised}

"""

_QUANTISED = """ It was trained and measured on the model
in 4 bits (NF4); load that with transformers' `quantization_config` for the same numbers."""

_MASKS = """`masks.safetensors` holds the learned token masks. They weight the training loss only; the model
generates without them.

"""


def model_card(run: RunFiles, config: dict[str, Any], *, has_masks: bool, composite: bool) -> str:
    """Markdown with the hub's front matter; `config` is the resolved configuration."""
    training = config["training"]
    quantised = _QUANTISED if config["model"].get("adapter") == "qlora" else ""
    adapted = config["model"].get("adapter", "none") != "none"
    lines = {
        "Data": _data(config["data"]["train"]),
        "Objective": _objective(config["objective"]),
        "Steps": _steps(run, training["pairs_per_step"]),
        "Learning rate": f"{training['learning_rate']}, {training['schedule']} schedule",
        "Precision": training["precision"],
        "Seed": training["seed"],
        **_prompts(config["data"]),
    }
    return _CARD.format(
        base=config["model"]["path"],
        base_model=_base_model(config["model"]["path"]),
        objective=config["objective"]["name"],
        name=run.folder.name,
        loader="AutoModelForMultimodalLM" if composite else "AutoModelForCausalLM",
        library="peft" if adapted else "transformers",
        adapter=_ADAPTER.format(base=config["model"]["path"], quantised=quantised) if adapted else "",
        masks=_MASKS if has_masks else "",
        training="\n".join(f"- {name}: {value}" for name, value in lines.items()),
        results=_results(run),
    )


def _base_model(model: str) -> str:
    """Hubs refuse cards that name what is not a hub's id, such as a folder of the machine that trained."""
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).exists()
    return f"base_model: {model}\n" if is_id else ""


def _steps(run: RunFiles, pairs_per_step: int) -> str:
    done, best = run.last("train").get("step", 0), run.last("final").get("step")
    chosen = "" if best is None else f"; the model is that after step {best}, the best by its held-out pairs"
    return f"{done} of {pairs_per_step} pairs{chosen}"


def _objective(objective: dict[str, Any]) -> str:
    beta = objective["beta"]
    return objective["name"] if beta is None else f"{objective['name']}, beta {beta}"


def _data(sources: str | list[Any]) -> str:
    """Of a mixture, its entries as they were written."""
    return sources if isinstance(sources, str) else "; ".join(map(str, sources))


def _prompts(data: dict[str, Any]) -> dict[str, str]:
    """What a prompt has to be rendered with to be as in training, where that is not what everybody does."""
    lines = {}
    if data.get("chat_template_kwargs"):
        lines["Chat template"] = f"`apply_chat_template(..., **{data['chat_template_kwargs']})`"
    if data.get("add_bos", "auto") != "auto":
        lines["BOS"] = "in front of every prompt" if data["add_bos"] else "never"
    return lines


def _results(run: RunFiles) -> str:
    last = run.last("final") or run.last("eval")
    lines = [
        f"- Held-out {name}: {last[key]:.4g}"
        for key, name in (("loss", "loss"), ("rewards/margins", "margin"))
        if last.get(key) is not None
    ]
    accuracy = accuracy_in_words(last)
    if accuracy is not None:
        lines.append(f"- Held-out pairs, chosen above rejected: {accuracy}")
    if run.evaluation:
        difference = run.evaluation["difference"]
        lines.append(
            f"- Mean reward on unseen prompts ({run.evaluation['scorer']}): "
            f"{run.evaluation['trained']['mean_reward']:.3f} against {run.evaluation['reference']['mean_reward']:.3f} "
            f"of the reference; difference {difference['mean']:+.3f}, 95 % bootstrap interval "
            f"[{difference['low']:+.3f}, {difference['high']:+.3f}]; response-level KL "
            f"{run.evaluation['response_kl']:.2f} nats"
        )
    return "\n".join(lines) or "Nothing was measured on held-out data."
