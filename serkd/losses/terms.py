"""A loss as a sum and a count, so that it means the same over any number of workers."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Term:
    """`weight` · (sum of `total` over workers) / (sum of `count` over workers).

    `total` is a scalar with gradient: this worker's sum over its samples. `count` is what it is
    divided by, this worker's share. Averaging per worker first would weigh samples by the size
    of the batch that they happened to be in.
    """

    total: Tensor
    count: float
    weight: float = 1.0
