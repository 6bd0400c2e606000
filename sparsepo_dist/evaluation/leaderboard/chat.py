"""Which tasks show their prompts as chat messages.

The leaderboard's own rule is one for all tasks of a model: those of a chat model, which here is one whose tokenizer has
a template. The released SparsePO evaluation has it for IFEval alone: `no leaderboard_ifeval=yes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.leaderboard.normalisation import GROUPS, TASKS, selected_tasks

RULES = ("auto", "yes", "no")


def chat_templates(given: Sequence[str], has_template: Callable[[], bool]) -> dict[str, bool]:
    """By task of the leaderboard, whether it is shown as messages.

    Args:
        given: a rule for all tasks, and TASK=yes or TASK=no for some, of tasks or groups; the later one counts.
        has_template: asked where a rule is `auto`.

    Raises:
        UserError: no such rule or task.
    """
    rules = dict.fromkeys(TASKS, "auto")
    for word in given:
        names, equals, rule = word.rpartition("=")
        if rule not in RULES:
            raise UserError(f"--chat_template {word}: give {', '.join(RULES)}, or TASK=yes and TASK=no")
        rules.update(dict.fromkeys(selected_tasks([names], option="--chat_template") if equals else TASKS, rule))
    auto = "auto" in rules.values() and has_template()
    return {task: rule == "yes" or (rule == "auto" and auto) for task, rule in rules.items()}


def as_setting(chat: Mapping[str, bool]) -> bool | dict[str, bool]:
    """What results are held against: one word where all tasks are alike, else by group or task."""
    if len(set(chat.values())) == 1:
        return next(iter(chat.values()))
    found: dict[str, bool] = {}
    for group, tasks in GROUPS.items():
        alike = {chat[task] for task in tasks}
        found |= {group: alike.pop()} if len(alike) == 1 else {task: chat[task] for task in tasks}
    return found


def in_words(setting: bool | Mapping[str, bool]) -> str:
    """The same for a table."""
    if isinstance(setting, bool):
        return f"Prompts {'are chat messages' if setting else 'are plain text'} in all tasks."
    told = ", ".join(task for task, yes in setting.items() if yes)
    return f"Prompts are chat messages in {told}, and plain text in all other tasks."
