"""Which tasks show their prompts as chat messages.

The leaderboard's own rule is one for all tasks of a model: those of a chat model, which here is one whose tokenizer has
a template. The released SparsePO evaluation has it for IFEval alone: `no leaderboard_ifeval=yes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sparsepo_dist.evaluation.leaderboard.per_task import per_task

RULES = ("auto", "yes", "no")


def chat_templates(
    given: Sequence[str], has_template: Callable[[], bool], others: Sequence[str] = ()
) -> dict[str, bool]:
    """By task of the leaderboard and by name of `others`, whether it is shown as messages.

    Args:
        given: a rule for all tasks, and TASK=yes or TASK=no for some, of tasks or groups; the later one counts.
        has_template: asked where a rule is `auto`.

    Raises:
        UserError: no such rule or task.
    """
    rules = per_task(given, others, "auto", _rule, option="--chat_template")
    auto = "auto" in rules.values() and has_template()
    return {task: rule == "yes" or (rule == "auto" and auto) for task, rule in rules.items()}


def _rule(text: str) -> str:
    if text not in RULES:
        raise ValueError(f"give {', '.join(RULES)}, or TASK=yes and TASK=no")
    return text


def in_words(setting: bool | Mapping[str, bool]) -> str:
    """The same for a table."""
    if isinstance(setting, bool):
        return f"Prompts {'are chat messages' if setting else 'are plain text'} in all tasks."
    told = ", ".join(task for task, yes in setting.items() if yes)
    return f"Prompts are chat messages in {told}, and plain text in all other tasks."
