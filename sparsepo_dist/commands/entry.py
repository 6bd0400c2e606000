"""How entry points end: their exit codes, and one message instead of a stack trace."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

from sparsepo_dist.commands.saying.printing import keep_printable, print_traceback
from sparsepo_dist.commands.saying.speaking import speak
from sparsepo_dist.engines.deepspeed.ranks import joined, rank
from sparsepo_dist.errors import FinishedError, RankError, RunError, StoppedError, UserError, printable
from sparsepo_dist.training.supervision.streams import keep_streams


def guarded(action: Callable[..., object], *arguments: object) -> int:
    """Run an entry point: 0, or an error's own code after printing its message, without a stack trace.

    What every rank says is printed once per machine, what one says with its name. 2 is a UserError, 1 a RunError, 75 a
    run that was asked to stop, 130 one that was by hand. Any other error is 1, after its stack trace. Nothing that is
    printed holds a control character, and losing standard output or standard error ends nothing.
    """
    keep_streams()
    keep_printable()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("sparsepo_dist").setLevel(logging.INFO)
    code = 0
    try:
        action(*arguments)
    except FinishedError as nothing_to_do:
        say(str(nothing_to_do))
    except (UserError, RunError, StoppedError) as error:
        progress_bar_ends = "" if isinstance(error, UserError) else "\n"
        kind = "stopped" if isinstance(error, StoppedError) else "error"

        def write(message: str) -> None:
            print(printable(f"{progress_bar_ends}{kind}: {message}"), file=sys.stderr, flush=True)  # noqa: T201

        if isinstance(error, RankError):
            write(str(error))
        else:
            speak(str(error), write)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:
        if _is_of_ranks(error):  # before they have found each other; later it is a RankError
            told = f"error: rank {rank()} cannot reach the other ranks: {_why_alone(error)}"
            print(printable(told), file=sys.stderr)  # noqa: T201
            code = RunError.exit_code
        else:
            print_traceback()
            code = 1
    if code and _among_others():
        # The others may wait in a collective: only the end of this process, without more ado, tells them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    dist = joined()
    if dist is not None:
        dist.destroy_process_group()
    return code


def answered(question: Callable[[], bool]) -> int:
    """As `guarded`, of what answers yes or no: 0 or 1 where it does."""
    answers: list[bool] = []
    return guarded(lambda: answers.append(question())) or int(not answers[0])


def _is_of_ranks(error: Exception) -> bool:
    dist = sys.modules.get("torch.distributed")  # who has not imported it has met none of its errors
    return dist is not None and isinstance(error, dist.DistError)


def _why_alone(error: Exception) -> str:
    said = str(error).splitlines()[0]
    if "EADDRINUSE" not in said:
        return said
    return (
        f"port {os.environ.get('MASTER_PORT')} is taken by another program, perhaps another training; "
        "give the launcher a free one with --master_port"
    )


def _among_others() -> bool:
    dist = joined()
    return dist is not None and bool(dist.get_world_size() > 1)


def say(message: str) -> None:
    """Print on rank 0."""
    if rank() == 0:
        print(printable(message), flush=True)  # noqa: T201
