"""Which tasks are shown as chat messages, and how that is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.leaderboard.chat import chat_templates, in_words
from sparsepo_dist.evaluation.leaderboard.command import parse_options
from sparsepo_dist.evaluation.leaderboard.normalisation import GROUPS, TASKS
from sparsepo_dist.evaluation.leaderboard.per_task import by_group


def never() -> bool:
    pytest.fail("the tokenizer was asked for nothing")


def given(*words: str) -> tuple[str, ...]:
    return tuple(parse_options(["--model", "m", "--output", "o", "--chat_template", *words]).chat_template)


@pytest.mark.parametrize("has", [True, False])
def test_the_default_is_one_rule_for_all_tasks_by_the_model(has: bool) -> None:
    default = parse_options(["--model", "m", "--output", "o"]).chat_template
    assert chat_templates(default, lambda: has) == dict.fromkeys(TASKS, has)
    assert by_group(dict.fromkeys(TASKS, has)) is has


@pytest.mark.parametrize(
    ("words", "has", "yes"),
    [
        (("yes",), never, set(TASKS)),
        (("no", "leaderboard_ifeval=yes"), never, {"leaderboard_ifeval"}),
        (("auto", "leaderboard_bbh=no"), lambda: True, set(TASKS) - set(GROUPS["leaderboard_bbh"])),
        (("no", "leaderboard_bbh=yes", "leaderboard_bbh_snarks=no"), never,
         set(GROUPS["leaderboard_bbh"]) - {"leaderboard_bbh_snarks"}),
    ],
)  # fmt: skip
def test_rules_of_single_tasks(words: tuple[str, ...], has: Callable[[], bool], yes: set[str]) -> None:
    assert {task for task, messages in chat_templates(given(*words), has).items() if messages} == yes


def test_the_released_rule_in_words() -> None:
    setting = by_group(chat_templates(("no", "leaderboard_ifeval=yes"), never))
    assert setting == {group: group == "leaderboard_ifeval" for group in GROUPS}
    assert in_words(setting) == "Prompts are chat messages in leaderboard_ifeval, and plain text in all other tasks."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("maybe",), "--chat_template maybe: give auto, yes, no, or TASK=yes"),
        (("no", "leaderboard_ifevall=yes"), "--chat_template: leaderboard_ifevall is no task .*did you mean"),
    ],
)
def test_rules_that_are_none(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chat_templates(words, never)
