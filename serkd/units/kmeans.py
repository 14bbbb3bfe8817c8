"""Lloyd's k-means on shards of float16 frames; no Ray here."""

from collections.abc import Callable, Mapping

import numpy as np

from serkd.units.balance import BalancedScale
from serkd.units.nearest import Codebook
from serkd.units.scale import Fitted, Scale
from serkd.units.sums import Sums


def fit_lloyd(
    add_all: Callable[[Mapping[int, Codebook]], Mapping[int, Sums]],
    starts: Mapping[int, Codebook | np.ndarray],
    *,
    squares: float,
    max_iterations: int,
    tolerance: float,
    seed: int,
    balanced: bool = False,
) -> dict[int, Fitted]:
    """Lloyd iterations of several scales side by side, each as if it were alone.

    `add_all` makes one pass over all the frames for some scales; `starts` maps K to its (K, D);
    `squares` is the sum of squares of all frames. A scale ends when its inertia improves by less
    than `tolerance`, relatively.

    If `balanced`, clusters get about the same number of frames, by prices that `starts` may have
    already. A scale then ends when no count is more than a tenth from an equal share and inertia
    changes by less than `tolerance`; if that is never, the pass with the evenest counts is its
    result. Equal frames stay together, however many.
    """
    kind = BalancedScale if balanced else Scale
    scales = {
        k: kind(Codebook.of(start), np.random.default_rng(seed)) for k, start in starts.items()
    }
    for _ in range(max_iterations):
        running = {k: scale.book for k, scale in scales.items() if not scale.is_done}
        if not running:
            break
        for k, total in add_all(running).items():
            scales[k].step(total, squares, tolerance)
    return {k: scale.result() for k, scale in scales.items()}
