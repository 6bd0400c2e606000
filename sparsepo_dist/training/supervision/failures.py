"""What happens to one rank, said so that a person can use it, by it and by the others."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from socket import gethostname

from safetensors import SafetensorError

from sparsepo_dist.engines.deepspeed.distributed import lost_peer, named, rank, store_holder
from sparsepo_dist.errors import FinishedError, RankError, RunError, StoppedError
from sparsepo_dist.training.supervision.endings import Endings
from sparsepo_dist.training.supervision.progress import Progress


@contextmanager
def failures_explained(progress: Progress, endings: Endings) -> Iterator[None]:
    """While open, the end of another rank, and files that cannot be read or written, become a message that says when,
    and what there is to go on with; and the other ranks are told what ended this one.

    When a rank ends, the others learn of it as an error of whatever collective they are in.

    Raises:
        RankError: in place of the OSError, SafetensorError or RuntimeError; other errors pass.
        HandedOnError: another rank ended first, and said why.
    """
    try:
        yield
    except (StoppedError, FinishedError):  # all ranks end so
        raise
    except (OSError, SafetensorError) as error:
        own = RankError(f"rank {rank()} on {gethostname()}: {error} (in {progress}). {progress.left()}")
        endings.tell(own)
        raise own from None
    except RuntimeError as error:
        if not lost_peer(error):
            endings.tell(error)
            raise
        raise _lost(error, progress, endings) from None
    except Exception as error:
        endings.tell(error)
        raise


def _lost(error: RuntimeError, progress: Progress, endings: Endings) -> RunError:
    """What to raise where a collective failed."""
    # Launchers signal the ranks that are left; these end all the same, but have something to say first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ending = endings.of_another()
    if ending is not None and not ending.lost:
        return ending.error()
    whom, why = "another rank", "What that rank or the launcher says tells why"
    if ending is not None:
        whom = named(ending.lost)
        why = (
            "No sign of life came from there any more: killed, ended without a word, or the machine, or the network to "
            "it, is gone"
        )
    elif endings.store_is_silent:
        why = (
            f"{store_holder()}, through which ranks speak, does not answer: it has ended, or its machine, this one or "
            "the network between them is gone"
        )
    reason = str(error).splitlines()[0].partition(". This is")[0]
    own = RankError(f"rank {rank()} on {gethostname()} lost {whom} in {progress} ({reason}). {why}. {progress.left()}")
    if ending is None:
        endings.tell(own)
    return own
