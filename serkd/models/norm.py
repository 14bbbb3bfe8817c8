"""Batch normalisation that padding and the number of workers do not change."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MOMENTUM = 0.1
_EPSILON = 1e-5


class _ByValidStatistics(torch.autograd.Function):
    """Frames (N, D) normalised by mean and variance of the valid ones of all workers.

    Of torch's own passes over memory, which is what a small student's time goes into; left to
    autograd they are more. Returns the mean and the variance too.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        frames: Tensor,
        valid: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept = frames * valid[:, None].to(frames.dtype)
        exact = torch.promote_types(frames.dtype, torch.float32)  # half sums lose
        count, first, second = _sum_over_workers(
            valid.sum(dtype=exact)[None],
            kept.sum(dim=0, dtype=exact),
            kept.to(exact).square().sum(dim=0),
        )
        mean = first / count
        variance = (second / count - mean.square()).clamp_min(0.0)
        ctx.save_for_backward(kept, valid, weight, mean, variance, count)
        ctx.mark_non_differentiable(mean, variance)
        return _normalise(kept, mean, variance, weight, bias), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        kept, valid, weight, mean, variance, count = ctx.saved_tensors
        mask = valid[:, None].to(kept.dtype)
        # as if the statistics were constants: the first part of a frame's gradient
        of_frames, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad * mask, kept, weight, mean, variance, None, None, False, _EPSILON, [True] * 3
        )
        # and by them: all workers' losses depend on every frame
        sums = _sum_over_workers(of_weight, of_bias)
        factor = -weight * torch.rsqrt(variance + _EPSILON) / count
        of_frames += _normalise(kept, mean, variance, *(factor * part for part in sums))
        return of_frames.mul_(mask), None, of_weight, of_bias


def _sum_over_workers(*parts: Tensor) -> Sequence[Tensor]:
    if dist.is_available() and dist.is_initialized():
        total = torch.cat(parts)
        dist.all_reduce(total)
        return total.split([len(part) for part in parts])
    return parts


def _normalise(
    frames: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """(…, D) in its own precision."""
    flat = F.batch_norm(frames.flatten(0, -2), mean, variance, weight, bias, eps=_EPSILON)
    return flat.view(frames.shape)


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
        if not self.training:
            return _normalise(frames, self.mean, self.variance, self.weight, self.bias)
        valid = mask.reshape(*mask.shape, *[1] * (frames.ndim - 3)).expand(frames.shape[:-1])
        flat, mean, variance = _ByValidStatistics.apply(
            frames.flatten(0, -2), valid.flatten(), self.weight, self.bias
        )
        self.mean.lerp_(mean, _MOMENTUM)
        self.variance.lerp_(variance, _MOMENTUM)
        return flat.view(frames.shape)
