"""pass@k: how likely it is that one of k samples of a problem passes its tests (Chen et al. 2021, arXiv 2107.03374)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate of one problem: 1 - C(n - c, k) / C(n, k), for c of n samples that passed.

    As a product of n - c, ..., n factors (1 - k / i): no binomial coefficient is formed, which would overflow.

    Raises:
        ValueError: no such counts, or k is not in 1..n.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {passed} in {samples} samples")
    if samples - passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))


def mean_pass_at_k(counts: Sequence[tuple[int, int]], ks: Iterable[int]) -> dict[int, float]:
    """Mean of `pass_at_k` over problems, by k.

    Args:
        counts: samples and passed ones of each problem.
        ks: those larger than the fewest samples of a problem are left out.

    Raises:
        ValueError: there are no problems, or no such counts.
    """
    fewest = min(samples for samples, _ in counts)
    return {k: math.fsum(pass_at_k(*count, k) for count in counts) / len(counts) for k in ks if k <= fewest}
