"""The `token` family: each channel of the input is a token (the paper's variate tokens)."""

import torch
from torch import Tensor, nn

from serkd import config
from serkd.models.heads import AttentionPooling, MeanPooling, Pooling, masked_mean
from serkd.models.students.lengths import LENGTHS

_TOKEN_POOLINGS = {"mean": MeanPooling, "attention": AttentionPooling}


def build_layers(width: int, depth: int, settings: config.Student) -> nn.Module:
    """Encoder layers over tokens (B, N, width)."""
    layer = nn.TransformerEncoderLayer(
        width,
        settings.num_heads,
        settings.ffn_ratio * width,
        settings.dropout,
        activation="gelu",
        batch_first=True,
    )
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class ChannelEmbedding(nn.Module):
    """Adds to tokens (B, N, width) which channel each is of; without it they are a set."""

    def __init__(self, num_channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(num_channels, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.weight


class TokenEncoder(nn.Module):
    """Variate tokens (after iTransformer, arXiv 2310.06625): (B, F, N) to (B, width).

    Each channel is a series: normalised over its valid frames, unless `instance_norm` is off,
    brought to a fixed length, and made one token by a Linear(num_frames -> width) shared by all
    channels; encoder layers attend over the N tokens, which have no position; their mean or
    attention pooling is the embedding. With `length: resample` a further token tells the logarithm
    of the duration; with `window` the embedding is the mean over windows.
    """

    def __init__(self, settings: config.Student, num_channels: int) -> None:
        super().__init__()
        width, depth = settings.shape
        self.out_dim = width
        self.num_frames = settings.series_frames
        self.normalise = normalise_channels if settings.instance_norm else hide_padding
        self.fix_length = LENGTHS[settings.length]
        self.to_token = nn.Linear(settings.series_frames, width)
        self.channel = (
            ChannelEmbedding(num_channels, width)
            if settings.has_channel_embedding
            else nn.Identity()
        )
        self.duration = nn.Linear(1, width) if settings.length == "resample" else None
        self.layers = build_layers(width, depth, settings)
        self.norm = nn.LayerNorm(width)
        self.pooling: Pooling = _TOKEN_POOLINGS[settings.token_pooling](width)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        series, is_own = self.fix_length(self.normalise(frames, mask), mask, self.num_frames)
        tokens = self.channel(self.to_token(series.flatten(0, 1).transpose(1, 2)))
        if self.duration is not None:  # one window each
            duration = self.duration(log_duration(mask, self.num_frames))
            tokens = torch.cat([tokens, duration[:, None]], dim=1)
        tokens = self.norm(self.layers(tokens))
        every = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return masked_mean(self.pooling(tokens, every).unflatten(0, is_own.shape), is_own)


def normalise_channels(frames: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance of each channel over the valid frames; padding becomes 0."""
    centred = frames - masked_mean(frames, mask)[:, None]
    variance = masked_mean(centred.square(), mask)[:, None]
    return centred / torch.sqrt(variance + 1e-5) * mask[..., None]


def hide_padding(frames: Tensor, mask: Tensor) -> Tensor:
    """(B, F, N) as it is; padding becomes 0."""
    return frames * mask[..., None]


def log_duration(mask: Tensor, num_frames: int) -> Tensor:
    """log(valid frames / num_frames) of (B, F); (B, 1)."""
    return (mask.sum(dim=1, keepdim=True) / num_frames).log()
