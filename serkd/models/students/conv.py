"""The `conv` family: convolutions over time and attentive statistics."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkd import config
from serkd.models.heads import AttentiveStatistics
from serkd.models.norm import MaskedBatchNorm

_STEM_LAYERS = 3


class ConvLayer(nn.Module):
    """Conv1d, batch normalisation, GELU, dropout; a residual connection where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.stride = stride
        self.has_residual = stride == 1 and inputs == outputs
        # a bias would change nothing behind the norm but, through the optimizer, its rounding
        self.convolution = (
            nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
            if kernel > 1
            else nn.Linear(inputs, outputs, bias=False)  # torch's Conv1d is half as fast
        )
        self.norm = MaskedBatchNorm(outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, inputs) and (B, F) to (B, ceil(F / stride), outputs) and its mask."""
        # convolutions pad with zeros, so padded frames must be zeros too
        frames = frames * mask[..., None]
        if isinstance(self.convolution, nn.Linear):
            hidden = self.convolution(frames[:, :: self.stride])
        else:
            hidden = self.convolution(frames.transpose(1, 2)).transpose(1, 2)
        mask = mask[:, :: self.stride]
        hidden = self.dropout(F.gelu(self.norm(hidden, mask)))
        return hidden + frames if self.has_residual else hidden, mask


class SpectrumLayer(nn.Module):
    """Conv2d 3x3 over time and mels, which it halves; batch normalisation, GELU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv2d(inputs, outputs, 3, (stride, 2), padding=1, bias=False)
        self.norm = MaskedBatchNorm(outputs)

    def forward(self, spectrum: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, M, inputs), (B, F) to (B, ceil(F / stride), ceil(M / 2), outputs) and its mask."""
        spectrum = spectrum * mask[..., None, None]
        hidden = self.convolution(spectrum.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mask = mask[:, :: self.stride]
        return F.gelu(self.norm(hidden, mask)), mask


class SpectrumStem(nn.Module):
    """Three such layers: patterns of pitch and formants count wherever on the mel axis they are.

    (B, F, planes·M) and (B, F) to (B, F', out_dim) and its mask; log-mel and each of its deltas are
    a plane.
    """

    def __init__(self, num_mels: int, planes: int, width: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.planes = planes
        # multiples of 8, which processors like
        channels = [planes, *(8 * max(1, round(width / share / 8)) for share in (8, 4, 2))]
        shapes = zip(channels, channels[1:], strides, strict=False)
        self.layers = nn.ModuleList(SpectrumLayer(*shape) for shape in shapes)
        self.out_dim = channels[-1] * -(-num_mels // 2 ** len(self.layers))

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # a copy, so that a single plane has the strides of channels last and convolves as such
        spectrum = torch.stack(frames.chunk(self.planes, dim=2), dim=-1)
        for layer in self.layers:
            spectrum, mask = layer(spectrum, mask)
        return spectrum.flatten(2), mask


class ConvStack(nn.Module):
    """The stem, if there is one, and `depth` layers over time: (B, F, N) to (B, F', width), mask.

    The first layers of all bring the input to 50 Hz / `reduction`, one halving each.
    """

    def __init__(self, settings: config.Student, num_channels: int, depth: int) -> None:
        super().__init__()
        width, kernel = settings.shape.width, settings.kernel_frames
        strides = [*[2] * settings.num_halvings, *[1] * (depth + _STEM_LAYERS)]
        self.stem, first_kernel = None, kernel
        if settings.has_spectrum_stem:
            planes = 3 if settings.deltas else 1
            num_mels = num_channels // planes
            self.stem = SpectrumStem(num_mels, planes, width, strides[:_STEM_LAYERS])
            num_channels, strides, first_kernel = self.stem.out_dim, strides[_STEM_LAYERS:], 1
        self.layers = nn.ModuleList(
            ConvLayer(
                width if i else num_channels,
                width,
                kernel if i else first_kernel,
                strides[i],
                settings.dropout,
            )
            for i in range(depth)
        )

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.stem is not None:
            frames, mask = self.stem(frames, mask)
        for layer in self.layers:
            frames, mask = layer(frames, mask)
        return frames, mask


class ConvEncoder(nn.Module):
    """Convolutions and attentive statistics: (B, F, N) and (B, F) to (B, width)."""

    def __init__(self, settings: config.Student, num_channels: int) -> None:
        super().__init__()
        self.out_dim, depth = settings.shape
        self.stack = ConvStack(settings, num_channels, depth)
        self.pooling = AttentiveStatistics(self.out_dim)
        self.norm = nn.LayerNorm(self.pooling.out_dim)
        self.embed = nn.Linear(self.pooling.out_dim, self.out_dim)

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        pooled = self.pooling(*self.stack(frames, mask))
        return F.gelu(self.embed(self.norm(pooled)))
