"""Rows in the schemas of data sets that people download, and the texts that they must become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
Texts = tuple[str, str, str | None]
"""Prompt, chosen, rejected, as a model reads them; the last is None where there is none."""


@dataclass(frozen=True)
class Known:
    """A schema."""

    name: str
    """Of the test; begins with the form's."""
    rows: list[dict[str, Any]]
    texts: list[Texts]
    scores: tuple[float, float] | None = None
    """Of the first pair."""
    unused: str = ""
    columns: str = "{}"

    @property
    def form(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def supervised(self) -> bool:
        return self.texts[0][2] is None


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def dialogue(question: str, answer: str) -> list[dict[str, str]]:
    return [user(question), assistant(answer)]


def _hh(answer: str) -> str:
    return f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Name a river\n\nAssistant:{answer}"


def _info(**more: Any) -> dict[str, Any]:
    return {"id": "t3_1", "post": None, "title": None, "subreddit": None, "site": None, "article": None, **more}


def _written(text: str) -> dict[str, Any]:
    return {"text": text, "policy": "sup1", "note": "ok"}


def _rated(text: str, rating: int, worker: str = "w", **info: Any) -> dict[str, Any]:
    axes = {"overall": rating, "accuracy": 7, "coverage": 3, "coherence": 7, "compatible": None}
    summary = {**_written(text), "axes": axes}
    return {"info": _info(**info), "split": "valid2", "summary": summary, "worker": worker, "batch": "sup1"}


_POST = {"post": "It rained.", "title": "Rain", "subreddit": "weather"}
_POST_TEXT = "SUBREDDIT: r/weather\n\nTITLE: Rain\n\nPOST: It rained.\n\nTL;DR:"
_OTHER = {"post": "Sun.", "title": "Sun", "subreddit": "weather", "id": "t3_2"}
_OTHER_TEXT = "SUBREDDIT: r/weather\n\nTITLE: Sun\n\nPOST: Sun.\n\nTL;DR:"
_CHAT = ("[user]Name a river[assistant]", "Elbe", "No")
KNOWN = [
    Known("preference", [{"prompt": "A river:", "chosen": " Elbe", "rejected": " No"}], [("A river:", " Elbe", " No")]),
    Known("preference several texts",
          [{"prompt": "A river:", "chosen": [" Elbe", " Oder"], "rejected": [" No"], "chosen_score": [2, 3.5],
            "rejected_score": [1]}],
          [("A river:", " Elbe", " No"), ("A river:", " Oder", " No")], (2.0, 1.0)),
    Known("preference several messages",
          [{"prompt": [user("Name a river")], "chosen": [[assistant("Elbe")]],
            "rejected": [[assistant("No")], [assistant("Nein")]]}],
          [_CHAT, (*_CHAT[:2], "Nein")]),
    Known("preference with system",
          [{"prompt": "Name a river", "chosen": "Elbe", "rejected": "No", "system": "Be brief. "},
           {"prompt": "Name a river", "chosen": "Elbe", "rejected": "No", "system": None}],
          [("[system]Be brief. [user]Name a river[assistant]", "Elbe", "No"), _CHAT]),
    Known("preference by columns",
          [{"question": "A river:", "good": {"text": " Elbe"}, "rejected": " No", "prompt": 3}],
          [("A river:", " Elbe", " No")], unused="prompt", columns="{prompt: question, chosen: good.text}"),
    Known("hh", [{"chosen": _hh(" Elbe."), "rejected": _hh(" No.")}], [(_hh(""), " Elbe.", " No.")]),
    Known("ultrafeedback",
          [{"prompt": "Name a river", "prompt_id": "f0e3", "chosen": dialogue("Name a river", "Elbe"),
            "rejected": dialogue("Name a river", "No"), "messages": dialogue("Name a river", "Elbe"),
            "score_chosen": 8.0, "score_rejected": 4.5}],
          [_CHAT], (8.0, 4.5), "prompt_id, messages"),
    Known("ultrafeedback of several turns",
          [{"prompt": "Hi", "chosen": [*dialogue("Hi", "Ho"), *dialogue("Name a river", "Elbe")], "score_chosen": 8.0,
            "rejected": [*dialogue("Hi", "Ho"), *dialogue("Name a river", "No")], "score_rejected": 4.5}],
          [("[user]Hi[assistant]Ho</s>\n[user]Name a river[assistant]", "Elbe", "No")], (8.0, 4.5)),
    Known("dpo_mix",
          [{"dataset": "argilla/distilabel-capybara", "chosen": dialogue("Name a river", "Elbe"),
            "rejected": dialogue("Name a river", "No"), "chosen_rating": 5.0, "rejected_rating": 3.0}],
          [_CHAT], (5.0, 3.0), "dataset"),
    Known("orca",
          [{"system": "Be brief.", "question": "Name a river", "chosen": "Elbe", "rejected": "No"},
           {"system": "", "question": "Name a river", "chosen": "Elbe", "rejected": "No"}],
          [("[system]Be brief.[user]Name a river[assistant]", "Elbe", "No"), _CHAT]),
    Known("scored_texts",
          [{"prompt": "A film", "chosen": {"text": " is good", "score": 0.9},
            "rejected": {"text": " is bad", "score": -0.8}}],
          [("A film", " is good", " is bad")], (0.9, -0.8)),
    Known("tldr_comparisons",
          [{"info": _info(**_POST), "summaries": [_written(" Rain."), _written(" Wet.")], "choice": 1, "worker": "w",
            "batch": "batch3", "split": "train", "extra": {"confidence": 8}},
           {"info": _info(article="The king."), "summaries": [_written("A king."), _written(" A.")], "choice": 0,
            "worker": "w", "batch": "cnndm0", "split": "valid1", "extra": {"confidence": None}}],
          [(_POST_TEXT, " Wet.", " Rain."), ("Article:\nThe king.\n\nTL;DR:", " A king.", " A.")],
          unused="worker, batch, split, extra"),
    Known("tldr_ratings",
          [_rated("Rain.", 6, **_POST), _rated(" Sun.", 2, **_OTHER), _rated("Wet.", 3, **_POST),
           _rated("Bright.", 7, **_OTHER), _rated("Rain.", 2, "v", **_POST), _rated("Dry.", 1, **_POST),
           _rated("Alone.", 1, post="x", title="x", subreddit="x")],
          [(_POST_TEXT, " Rain.", " Dry."), (_OTHER_TEXT, " Bright.", " Sun.")], (4.0, 1.0), "split, worker, batch"),
    Known("prompt_completion", [{"prompt": "A river:", "completion": " Elbe"}], [("A river:", " Elbe", None)]),
    Known("prompt_completion of messages",
          [{"prompt": [user("Name a river")], "completion": [assistant("Elbe")]}], [(*_CHAT[:2], None)]),
    Known("messages", [{"messages": [*dialogue("Hi", "Ho"), *dialogue("Name a river", "Elbe")], "source": "x"}],
          [("[user]Hi[assistant]Ho</s>\n[user]Name a river[assistant]", "Elbe", None)], unused="source"),
    Known("text", [{"text": "The Elbe."}], [("T", "he Elbe.", None)]),
]  # fmt: skip
