"""A tokenizer's chat template, and the one place where it is applied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import jinja2.meta
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from sparsepo_dist.contracts import Message
from sparsepo_dist.errors import UserError, did_you_mean, shortened
from sparsepo_dist.files import read_text

Tools = Sequence[Mapping[str, Any]]
_SHIPPED, _BUILTIN, _SUFFIX = Path(__file__).with_name("templates"), "builtin:", ".jinja"
_BLOCK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class Template:
    """Renders messages as they are rendered at inference: same date, same arguments.

    Its methods raise whatever a template's author chose to raise.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        now: datetime | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """`now` is the moment that templates are told which print a date, this one where it is not given; `arguments`
        is `data.chat_template_kwargs`."""
        self.tokenizer, self.arguments = tokenizer, dict(arguments or {})
        self._now = now

    def render(self, messages: Sequence[Message], tools: Tools = (), *, generation: bool = False) -> str:
        """The text of messages; with `generation`, ended by what asks for the next answer."""
        with _told(self._now):
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in tools] or None,
                    tokenize=False,
                    add_generation_prompt=generation,
                    **self.arguments,
                )
            )

    def generated(self, messages: Sequence[Message], tools: Tools = ()) -> list[tuple[int, int]] | None:
        """[start, end) of the characters that the template itself marks as the assistant's (`{% generation %}`); None
        where it marks none."""
        template = self.tokenizer.get_chat_template(tools=list(tools) or None)
        if not _BLOCK.search(template):
            return None
        with _told(self._now):
            _, found = chat_template_utils.render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                tools=[dict(tool) for tool in tools] or None,
                chat_template=template,
                return_assistant_tokens_mask=True,
                **{**self.tokenizer.special_tokens_map, **self.arguments},
            )
        return [(start, end) for start, end in found[0] if start < end]

    @property
    def turn_end(self) -> str | None:
        """The token that ends an answer, which need not be EOS; None where the template ends answers with none, or
        `end_refused` says why that is not known."""
        return self._turn_end[0]

    @property
    def end_refused(self) -> str | None:
        """What the template says where it renders no dialogue from which `turn_end` could be read."""
        return self._turn_end[1]

    @cached_property
    def _turn_end(self) -> tuple[str | None, str | None]:
        refusal = None
        for content in ("M0M", [{"type": "text", "text": "M0M"}]):
            dialogue: list[Message] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]
            try:
                behind = self.render(dialogue).rpartition("M0M")[2].lstrip()
            except Exception as error:  # templates raise whatever their author chose
                refusal = refusal or str(error) or type(error).__name__
                continue
            return self._last_token(behind), None
        return None, refusal

    def _last_token(self, text: str) -> str | None:
        """The last of the tokens that a text begins with, side by side."""
        known = {*self.tokenizer.get_added_vocab(), *map(str, self.tokenizer.special_tokens_map.values())} - {""}
        last = None
        while token := max((token for token in known if text.startswith(token)), key=len, default=None):
            last, text = token, text.removeprefix(token)
        return last

    def unread_arguments(self) -> dict[str, str]:
        """Names of arguments that no template of the tokenizer reads, each with the nearest name that one does read."""
        templates = self.tokenizer.chat_template or ""
        texts = [templates] if isinstance(templates, str) else list(templates.values())
        read = {name for text in texts for name in _variables(text)}
        return {name: did_you_mean(name, sorted(read)) for name in sorted(self.arguments) if name not in read}


def template_text(named: str) -> str:
    """The text of a template, named as `data.chat_template` has it.

    Raises:
        UserError: there is no such file, none of that name ships with the project, or it cannot be read.
    """
    if named.startswith(_BUILTIN):
        name = named.removeprefix(_BUILTIN)
        there = sorted(path.stem for path in _SHIPPED.glob(f"*{_SUFFIX}"))
        if name not in there:
            raise UserError(
                f"data.chat_template: {shortened(named)} is not built in; there is "
                f"{', '.join(_BUILTIN + one for one in there)}{did_you_mean(name, there)}"
            )
        path = _SHIPPED / f"{name}{_SUFFIX}"
    else:
        path = Path(named)
        if not path.is_file():
            raise UserError(f"data.chat_template: no such file {path}")
    return read_text(path, f"data.chat_template: {path}")


def _variables(template: str) -> set[str]:
    environment = chat_template_utils._compile_jinja_template(template).environment
    found: set[str] = jinja2.meta.find_undeclared_variables(environment.parse(template))
    return found


@contextmanager
def _told(now: datetime | None) -> Iterator[None]:
    """While open, templates that ask for the date get this one: transformers hands them a clock, and takes no other."""
    clock: Any = chat_template_utils
    own = clock.datetime
    clock.datetime = own if now is None else SimpleNamespace(now=lambda: now)
    try:
        yield
    finally:
        clock.datetime = own
