"""Poolings over valid frames, and classifiers."""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_mean(frames: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, F, D) over the valid frames of (B, F); (B, D)."""
    weights = mask.to(frames.dtype)
    return (frames * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)


class Pooling(nn.Module):
    """Valid frames (B, F, D) to embeddings (B, out_dim)."""

    out_dim: int

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim


class MeanPooling(Pooling):
    """Mean over valid frames; (B, F, D) to (B, D)."""

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(frames, mask)


class AttentionPooling(Pooling):
    """softmax_t(w · tanh(V h_t)) weighted mean; (B, F, D) to (B, D).

    Attention as in self-attentive speaker embeddings (Zhu et al., Interspeech 2018), one head.
    """

    def __init__(self, dim: int, hidden: int = 128) -> None:
        super().__init__(dim)
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)  # start as plain statistics: every frame weighs the same
        self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), last)

    def weights(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Attention (B, F, 1); exactly 0 on padding."""
        scores = self.score(frames).squeeze(-1).masked_fill(~mask, float("-inf"))
        return scores.softmax(dim=1)[..., None]

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return (self.weights(frames, mask) * frames).sum(dim=1)


class AttentiveStatistics(AttentionPooling):
    """Attention-weighted mean and standard deviation (Okabe et al., arXiv 1803.10963, eq. 5-6).

    (B, F, D) to (B, 2·D).
    """

    def __init__(self, dim: int, hidden: int = 128) -> None:
        super().__init__(dim, hidden)
        self.out_dim = 2 * dim

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        weights = self.weights(frames, mask)
        mean = (weights * frames).sum(dim=1)
        variance = (weights * (frames - mean[:, None]).square()).sum(dim=1)
        return torch.cat([mean, (variance + 1e-6).sqrt()], dim=-1)


POOLINGS: dict[str, Callable[[int], Pooling]] = {
    "mean": MeanPooling,
    "attention": AttentionPooling,
    "attentive_statistics": AttentiveStatistics,
}


class LayerMix(nn.Module):
    """Softmax-weighted mean of layers, all alike at first (SUPERB, arXiv 2105.01051, section 3.2).

    num_layers x (B, F, D) to (B, F, D).
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        weights = self.scores.softmax(dim=0)
        # autocast leaves some states in float32 and some not
        weighted = (w * s.to(w.dtype) for w, s in zip(weights, states, strict=True))
        return functools.reduce(torch.add, weighted)


class Standardise(nn.Module):
    """(x - mean) / deviation with fixed statistics, (…, D).

    The statistics are a training fold's, set once before training and saved with the model.
    Without them a few large dimensions of a pretrained encoder decide every cosine.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def fit(self, values: Tensor) -> None:
        """Take the statistics of (N, D)."""
        self.mean.copy_(values.mean(dim=0))
        self.deviation.copy_(values.std(dim=0).clamp_min(1e-3))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation


class CosineClassifier(nn.Module):
    """Cosines of embeddings (N, D) and class weights (C, D), no bias: AM-Softmax's scores."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, dim))
        nn.init.xavier_normal_(self.weight)

    def forward(self, embeddings: Tensor) -> Tensor:
        # bfloat16's steps near 1 are a good part of a margin
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self.weight.dtype)
            return F.linear(F.normalize(embeddings, dim=-1), F.normalize(self.weight, dim=-1))


def unit_head(dim: int, num_units: int) -> nn.Module:
    """Linear D -> 256, tanh, Linear 256 -> K (after P-TAPT's heads)."""
    return nn.Sequential(nn.Linear(dim, 256), nn.Tanh(), nn.Linear(256, num_units))
