"""What happens to one rank, said so that a person can use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from socket import gethostname

from safetensors import SafetensorError

from sparsepo_dist.engines.deepspeed.distributed import lost_peer, rank
from sparsepo_dist.errors import RankError
from sparsepo_dist.training.supervision.progress import Progress


@contextmanager
def failures_explained(progress: Progress) -> Iterator[None]:
    """While open, the end of another rank, and files that cannot be read or written, become a message that says when,
    and what there is to go on with.

    When a rank dies, the others learn of it as an error of whatever collective they are in.

    Raises:
        RankError: in place of the OSError, SafetensorError or RuntimeError; other errors pass.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RankError(f"rank {rank()} on {gethostname()}: {error} (in {progress}). {progress.left()}") from None
    except RuntimeError as error:
        if not lost_peer(error):
            raise
        reason = str(error).splitlines()[0].partition(". This is")[0]
        raise RankError(
            f"rank {rank()} on {gethostname()} lost another rank in {progress} ({reason}). What that rank or the "
            f"launcher says tells why. {progress.left()}"
        ) from None
