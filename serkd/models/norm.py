"""Batch normalisation that padding and the number of workers do not change."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_MOMENTUM = 0.1


class _SumOverWorkers(torch.autograd.Function):
    """all_reduce whose gradient is all_reduced too: each worker's loss depends on every sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of (B, F, …, D) over the valid frames of the global batch.

    In training the statistics are those of all workers' valid frames; in evaluation the running
    ones. Per-frame layer normalisation instead would take away a frame's energy and fits worse.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        mean, variance = self.mean, self.variance
        frames = frames.to(torch.promote_types(frames.dtype, torch.float32))  # half sums lose
        if self.training:
            mean, variance = _valid_statistics(frames, mask)
            self.mean.lerp_(mean.detach(), _MOMENTUM)
            self.variance.lerp_(variance.detach(), _MOMENTUM)
        factor = torch.rsqrt(variance + 1e-5) * self.weight
        return torch.addcmul(self.bias - mean * factor, frames, factor)


def _valid_statistics(frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    every = mask.reshape(*mask.shape, *[1] * (frames.ndim - 2))
    valid = torch.where(every, frames, 0.0).flatten(0, -2)
    count = mask.sum().to(valid)[None] * frames[0, 0, ..., 0].numel()
    sums = torch.cat([count, valid.sum(dim=0), valid.square().sum(dim=0)])
    if dist.is_available() and dist.is_initialized():
        sums = _SumOverWorkers.apply(sums)
    total, first, second = sums.split([1, frames.shape[-1], frames.shape[-1]])
    mean = first / total
    return mean, (second / total - mean.square()).clamp_min(0.0)
