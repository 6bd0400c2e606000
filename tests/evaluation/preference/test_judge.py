"""A judge on loopback: both orders, invalid answers, busy servers, what is kept, and a key that is told to nobody."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.evaluation.preference.command import parser, preference
from sparsepo_dist.evaluation.preference.endpoint import ATTEMPTS, Endpoint, endpoint
from sparsepo_dist.evaluation.preference.judge import Comparison, Judge, Judged, question, verdict
from tests.support.judges import Asked, Reply, answers_of, judge_server, said
from tests.support.tiny import save_tiny_model, write_pairs

KEY = "sk-test-0123456789abcdef"
COMPARISONS = [Comparison("Why?", f"long answer {n}", f"short {n}") for n in range(5)]


def judge_of(url: str, key: str | None = None) -> Judge:
    return Judge(Endpoint(url, "m", key, {"temperature": 0}, pause=0.001), at_once=3)


def longer(asked: Asked) -> Reply:
    first, second = answers_of(asked)
    return said(f"I compare.\n[[{'A' if len(first) > len(second) else 'B'}]]")


def test_both_orders_are_asked_and_cancel_a_bias_of_position(tmp_path: Path) -> None:
    with judge_server(longer) as server:
        found = judge_of(server.url).of(COMPARISONS, tmp_path / "kept.jsonl", "judging")
        assert found == [Judged(1.0, swayed=False, invalid=0)] * 5
        turned = [Comparison(c.prompt, c.other, c.response) for c in COMPARISONS]
        assert judge_of(server.url).of(turned, tmp_path / "other.jsonl", "judging") == [Judged(0.0, False, 0)] * 5
        both = {answers_of(asked) for asked in server.asked}
        assert {(c.response, c.other) for c in COMPARISONS} | {(c.other, c.response) for c in COMPARISONS} == both
        body = server.asked[0].body
        assert (body["model"], body["temperature"], server.asked[0].path) == ("m", 0, "/v1/chat/completions")
    with judge_server(lambda asked: said("[[A]]")) as server:
        found = judge_of(server.url).of(COMPARISONS, tmp_path / "swayed.jsonl", "judging")
        assert found == [Judged(0.5, swayed=True, invalid=0)] * 5


def test_equal_responses_tie_and_nobody_is_asked(tmp_path: Path) -> None:
    with judge_server(lambda asked: said("[[A]]")) as server:
        found = judge_of(server.url).of([Comparison("Why?", "same", "same")], tmp_path / "kept.jsonl", "judging")
        assert found == [Judged(0.5, swayed=False, invalid=0)] and server.asked == []


def test_verdicts() -> None:
    answers = ("[[A]]", "so: [[b]].", "[[TIE]]", "A", "[[A]] or [[B]]", "", "[[A]], I said [[A]]")
    assert [verdict(answer) for answer in answers] == [1.0, 0.0, 0.5, None, None, None, 1.0]
    dialogue = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
    assert "# Request\nsystem: Be brief.\n\nuser: Why?\n\n# Answer A\none\n\n# Answer B\ntwo" in question(
        dialogue, "one", "two"
    )


def test_answers_without_a_verdict_are_counted_and_asked_once(tmp_path: Path) -> None:
    def unsure(asked: Asked) -> Reply:
        return said(None) if "answer 1" in answers_of(asked)[0] else longer(asked)

    with judge_server(unsure) as server:
        for _ in range(2):
            found = judge_of(server.url).of(COMPARISONS, tmp_path / "kept.jsonl", "judging")
            assert found[1] == Judged(None, swayed=False, invalid=1) and found[0].preference == 1
        assert len(server.asked) == 10, "what was answered is kept"


def test_busy_servers_are_asked_again_and_an_interrupted_judgement_goes_on(tmp_path: Path) -> None:
    failures = iter([429, 503, 500])

    def busy(asked: Asked) -> Reply:
        status = next(failures, None)
        return longer(asked) if status is None else (status, {"error": "busy"})

    with judge_server(busy, {"Retry-After": "0"}) as server:
        assert judge_of(server.url).of(COMPARISONS[:2], tmp_path / "kept.jsonl", "judging") == [Judged(1, False, 0)] * 2
        assert len(server.asked) == 4 + 3
    with (tmp_path / "kept.jsonl").open("a") as file:
        file.write('{"question": "torn')  # by a kill while it was written
    with judge_server(lambda asked: (503, {})) as server:
        with pytest.raises(RunError, match=rf"gave no answer in {ATTEMPTS} attempts \(HTTP 503\); .* start again"):
            judge_of(server.url).of(COMPARISONS, tmp_path / "kept.jsonl", "judging")
        assert len(server.asked) >= ATTEMPTS
    gone = judge_of("http://127.0.0.1:9/v1")
    with pytest.raises(RunError, match="Connection refused"):
        gone.of(COMPARISONS[:1], tmp_path / "new.jsonl", "judging")
    lines = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert len(lines) == 4 and all(json.loads(line)["answer"] for line in lines)
    (tmp_path / "kept.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"kept.jsonl, line 1: no answer of a judge"):
        gone.of(COMPARISONS, tmp_path / "kept.jsonl", "judging")


REFUSALS: list[tuple[int, object, str]] = [
    (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}, "HTTP 401: the key is not taken"),
    (404, {"error": f"no model m for {KEY}"}, 'HTTP 404 for m: .*no model m for <key>'),
    (302, {}, r"leads elsewhere \(HTTP 302\), where no key is taken along"),
    (200, {"text": KEY}, "what it answers is no chat completion"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "message"), REFUSALS)
def test_refusals_end_at_once_and_do_not_repeat_the_key(
    status: int, body: object, message: str, tmp_path: Path
) -> None:
    with judge_server(lambda asked: (status, body), {"Location": "http://127.0.0.1:9/"}) as server:
        with pytest.raises(UserError, match=message) as caught:
            judge_of(server.url, KEY).of(COMPARISONS[:1], tmp_path / "kept.jsonl", "judging")
        assert KEY not in str(caught.value) and server.asked[0].authorization == f"Bearer {KEY}"
        assert len(server.asked) <= 2


def test_addresses_and_keys_that_are_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("127.0.0.1/v1", "ftp://host/v1", "http://[", "http:///v1"):
        with pytest.raises(UserError, match="--judge_url: an address like"):
            endpoint(url, "m", None, {})
    with pytest.raises(UserError, match="without user, password or query"):
        endpoint(f"http://user:{KEY}@host/v1", "m", None, {})
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match="the environment variable that it names is not set"):
        endpoint("http://host/v1", "m", "JUDGE_KEY", {})
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    with pytest.raises(UserError, match="blanks, line ends or other than ASCII"):
        endpoint("http://host/v1", "m", "JUDGE_KEY", {})
    monkeypatch.setenv("JUDGE_KEY", KEY)
    found = endpoint("http://host/v1/chat/completions/", "m", "JUDGE_KEY", {})
    assert (found.url, found.key) == ("http://host/v1", KEY) and KEY not in repr(found)
    for option, value in (("--judge_key_env", KEY), ("--judge_options", '{"messages": []}'), ("--judge_options", "7")):
        with pytest.raises(SystemExit):
            parser().parse_args(["--model", "m", "--pairs", "p", "--output", "o", option, value])
    assert KEY not in capsys.readouterr().err


def test_the_driver_by_a_judge_and_the_key_is_in_no_file_and_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    model = save_tiny_model(tmp_path / "model", seed=1)
    command = [
        "--model", str(model), "--pairs", str(write_pairs(tmp_path / "pairs.jsonl", 4)), "--max_new_tokens", "8",
        "--output", str(tmp_path / "out"), "--judge_model", "m", "--judge_key_env", "JUDGE_KEY", "--samples", "2",
    ]  # fmt: skip
    with judge_server(lambda asked: said(f"{KEY} [[A]]")) as server:
        monkeypatch.setattr("sys.argv", ["preference.py", *command, "--judge_url", server.url])
        table = preference([*command, "--judge_url", server.url])
        assert {asked.authorization for asked in server.asked} == {f"Bearer {KEY}"}
        asked = len(server.asked)
        preference([*command, "--judge_url", server.url])
        assert len(server.asked) == asked
    (row,) = json.loads(table.with_suffix(".json").read_text())["rows"]
    assert (row["judge_win_rate"], row["judge_swayed"], row["judge_invalid"]) == (0.5, 8, 0)
    assert "Implicit rewards are missing: --model:" in table.read_text() and "by a judge" in table.read_text()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.suffix == ".jsonl" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in caplog.text and KEY not in "".join(capfd.readouterr())
