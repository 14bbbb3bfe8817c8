"""The processes that train one model together."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


class Workers:
    """The processes that train one model; a group of one does nothing."""

    def __init__(self) -> None:
        is_group = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if is_group else 0
        self.size = dist.get_world_size() if is_group else 1

    def share(self, index: np.ndarray) -> np.ndarray:
        """This worker's part of a global batch."""
        return index[self.rank :: self.size]

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, rows: Tensor, total: int, views: int = 1) -> tuple[Tensor, int]:
        """All workers' rows, (views·total, D) or (views·total,), and where this worker's begin.

        With gradient. `total` utterances are shared by the workers, with `views` rows of each.
        """
        if self.size == 1:
            return rows, 0
        counts = [views * len(range(rank, total, self.size)) for rank in range(self.size)]
        return _Gather.apply(rows, counts, self.rank), sum(counts[: self.rank])

    def collect(self, value: object) -> list[Any]:
        """Every worker's object, in order of rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found


class _Gather(torch.autograd.Function):
    """all_gather whose gradient is the sum over workers of what each did with these rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], rank: int) -> Tensor:  # noqa: ANN401
        ctx.start, ctx.count = sum(counts[:rank]), counts[rank]
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count], None, None
