"""A pair as text: what is special, what a label, what was cut, and nothing that a terminal would obey."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.tokens.showing import has_colours, show_pairs, write
from sparsepo_dist.data.tokens.shown import HEAD, TAIL, PairText
from tests.support.tiny import tiny_tokenizer

BOS, EOS = 256, 257


def ids(text: str) -> tuple[int, ...]:
    return tuple(tiny_tokenizer()(text)["input_ids"])


PAIR = TokenizedPair((BOS, *ids("Say <s>:\n")), (*ids(" caf\xe9"), EOS), (*ids(" \x1b[31mno\ttea"), EOS), None, "row 7")


def text(pair: TokenizedPair, whole: TokenizedPair | None = None, *, colours: bool = False, most: int = 1024) -> str:
    return PairText(tiny_tokenizer(), DataConfig(max_prompt_length=most), colours=colours).pair(pair, whole)


def test_a_special_token_is_no_text_that_looks_like_it() -> None:
    tokenizer = tiny_tokenizer()
    spelt = tuple(tokenizer.convert_tokens_to_ids(list("<s>")))
    lines = text(dataclasses.replace(PAIR, prompt_ids=(BOS, *spelt, *ids("\nx")))).splitlines()
    assert lines[2:4] == ["  | \u27e6<s> BOS\u27e7<s>\u21b5", "  | x"]


def test_what_was_done_is_said() -> None:
    _, prompt, *_, chosen, answer, rejected, other = text(PAIR).splitlines()
    assert prompt.startswith("prompt: 8 tokens, none a label, BOS at the start, 2 times in all; ids 256 ")
    assert chosen.startswith("chosen: 7 tokens, all labels, EOS at the end; ids ") and chosen.endswith(" 257")
    assert answer == "  +  caf\xe9\u27e6</s> EOS\u27e7" and rejected.startswith("rejected: ")
    assert other == "  +  \\x1b[31mno\u21e5tea\u27e6</s> EOS\u27e7"


def test_one_token_may_have_both_roles() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "</s>"
    shown = PairText(tokenizer, DataConfig(), colours=False).pair(
        TokenizedPair((EOS, 97), (98, EOS), (), None, "row 1")
    )
    assert "\u27e6</s> BOS EOS\u27e7" in shown


def test_what_is_read_and_not_trained_on_is_told_from_labels() -> None:
    pair = TokenizedPair(ids("ab"), (*ids("why: so"), EOS), (), None, "row 1", chosen_trained=((5, 8),))
    shown = text(pair)
    assert "chosen: 8 tokens, 3 of them labels, EOS at the end" in shown
    assert "  + \u27e6no labels\u27e7why: \u27e6labels\u27e7so\u27e6</s> EOS\u27e7" in shown


def test_no_bos_and_no_rejected_response() -> None:
    shown = text(TokenizedPair(ids("ab"), (*ids("c"), EOS), (), None, "row 1"))
    assert "none a label, no BOS;" in shown and "rejected" not in shown


def test_colours_change_nothing_but_colours() -> None:
    coloured = text(PAIR, colours=True)
    assert "\x1b" not in text(PAIR) and re.sub(r"\x1b\[[\d;]*m", "", coloured) == text(PAIR)
    painted = re.findall(r"\x1b\[([\d;]*)m(.*?)\x1b\[0m", coloured)
    assert ("2;7", "\u27e6<s> BOS\u27e7") in painted and ("32", " caf\xe9") in painted
    assert all(kind != "2" for kind, piece in painted if "caf" in piece or "tea" in piece)


def test_cuts_are_marked_where_they_are() -> None:
    whole = TokenizedPair((BOS, *ids("abcdef")), (*ids("123456"), EOS), (*ids("x"), EOS), None, "row 1")
    cut = dataclasses.replace(whole, prompt_ids=(BOS, *ids("ef")), chosen_ids=ids("1234"))
    shown = text(cut, whole)
    assert (
        "  | \u27e6<s> BOS\u27e7\u27e64 tokens cut\u27e7ef\n" in shown and "  + 1234\u27e63 tokens cut\u27e7\n" in shown
    )
    assert "BOS at the start, 4 cut;" in shown and "no EOS at the end, 3 cut;" in shown
    # Where the whole pair is not there any more, a missing EOS tells of a cut, and a full prompt of a possible one.
    shown = text(cut, most=3)
    assert "  + 1234\u27e6cut\u27e7" in shown and "as many as data.max_prompt_length takes" in shown
    assert "may have been cut" not in text(cut, most=4)


@pytest.mark.parametrize(("length", "hidden"), [(HEAD + TAIL + 1, 0), (5000, 5000 - HEAD - TAIL)])
def test_of_a_long_text_the_middle_is_left_out(length: int, hidden: int) -> None:
    prompt = ids("ab" * length)[:length]
    shown = text(dataclasses.replace(PAIR, prompt_ids=prompt), most=10**6)
    (line,) = [line for line in shown.splitlines() if line.startswith("  | ")]
    assert (f"\u27e6{hidden:,} tokens not shown\u27e7" in line) == bool(hidden)
    assert len(line) < 200 and f"prompt: {length:,} tokens" in shown and len(shown) < 1000


def test_behind_a_prompt_no_space_is_lost() -> None:
    """Alone, a Metaspace decoder takes the first one off."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "\u2581a": 1, "\u2581b": 2, "</s>": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    assert wrapped.decode([2]) == "b"
    shown = PairText(wrapped, DataConfig(), colours=False).pair(TokenizedPair((1,), (2, 3), (1, 3), None, "row 1"))
    assert "  +  b\u27e6</s> EOS\u27e7" in shown


@pytest.mark.parametrize(("asked", "expected"), [(0, 0), (2, 2), (9, 3)])
def test_so_many_pairs_are_shown_as_were_asked_for(
    asked: int, expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    show_pairs([PAIR] * 3, tiny_tokenizer(), DataConfig(show=asked))
    shown = capsys.readouterr().err
    assert shown.count("row 7: ") == expected and "\x1b" not in shown


def test_a_terminal_has_colours_where_its_user_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert has_colours(terminal) and not has_colours(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colours(terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(terminal)


def test_what_a_stream_cannot_encode_is_spelt_out() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    write("caf\xe9 \u27e6", stream)
    stream.seek(0)
    assert stream.read() == "caf\\xe9 \\u27e6\n"
