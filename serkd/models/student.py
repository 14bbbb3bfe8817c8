"""Students on log-mel: two families behind one interface."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkd import config
from serkd.models.heads import AttentiveStatistics, Standardise, masked_mean
from serkd.models.norm import MaskedBatchNorm

_PROJECTION = 64  # SupCon's space


@dataclass(frozen=True)
class StudentOutput:
    """`logits` (B, C), the pooled `embedding` (B, E) and its SupCon `projection` (B, 64)."""

    logits: Tensor
    embedding: Tensor
    projection: Tensor


class Student(nn.Module):
    """Log-mel (B, F, N) with valid frames (B, F) to emotions; padding never changes a result.

    Each mel channel is standardised by the training fold's statistics, which are part of the model.
    """

    def __init__(
        self, encoder: nn.Module, num_mels: int, width: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.standardise = Standardise(num_mels)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)
        self.projector = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, _PROJECTION)
        )

    def forward(self, logmel: Tensor, mask: Tensor) -> StudentOutput:
        embedding = self.encoder(self.standardise(logmel), mask)
        logits = self.classifier(self.dropout(embedding))
        return StudentOutput(logits, embedding, self.projector(embedding))


class ConvLayer(nn.Module):
    """Conv1d, batch normalisation, GELU, dropout; a residual connection where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.stride = stride
        self.has_residual = stride == 1 and inputs == outputs
        self.convolution = nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.norm = MaskedBatchNorm(outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, inputs) and (B, F) to (B, ceil(F / stride), outputs) and its mask."""
        # convolutions pad with zeros, so padded frames must be zeros too
        frames = frames * mask[..., None]
        hidden = self.convolution(frames.transpose(1, 2)).transpose(1, 2)
        mask = mask[:, :: self.stride]
        hidden = self.dropout(F.gelu(self.norm(hidden, mask)))
        return hidden + frames if self.has_residual else hidden, mask


class ConvEncoder(nn.Module):
    """Conv1d layers and attentive statistics: the `conv` family.

    The first layer brings the input to 50 Hz, the second to 25 Hz, where the others work.
    """

    def __init__(self, settings: config.Student) -> None:
        super().__init__()
        width = settings.width
        strides = [settings.logmel.frame_rate_hz // 50, 2, *[1] * settings.depth][: settings.depth]
        self.layers = nn.ModuleList(
            ConvLayer(
                width if i else settings.logmel.num_mels,
                width,
                settings.kernel_frames,
                stride,
                settings.dropout,
            )
            for i, stride in enumerate(strides)
        )
        self.pooling = AttentiveStatistics(width)
        self.norm = nn.LayerNorm(self.pooling.out_dim)
        self.embed = nn.Linear(self.pooling.out_dim, width)

    def forward(self, logmel: Tensor, mask: Tensor) -> Tensor:
        hidden = logmel
        for layer in self.layers:
            hidden, mask = layer(hidden, mask)
        return F.gelu(self.embed(self.norm(self.pooling(hidden, mask))))


class TokenEncoder(nn.Module):
    """Variate tokens: the `token` family, the paper's (after iTransformer, arXiv 2310.06625).

    Each mel channel is a series: normalised over its valid frames, cut or zero-padded to F frames,
    and made one token by a Linear(F -> width) shared by all channels; encoder layers attend over
    the N tokens, which have no position; their mean is the embedding.
    """

    def __init__(self, settings: config.Student) -> None:
        super().__init__()
        self.num_frames = settings.num_frames
        self.to_token = nn.Linear(settings.num_frames, settings.width)
        layer = nn.TransformerEncoderLayer(
            settings.width,
            settings.num_heads,
            settings.ffn_ratio * settings.width,
            settings.dropout,
            activation="gelu",
            batch_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, settings.depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, logmel: Tensor, mask: Tensor) -> Tensor:
        series = normalise_channels(logmel, mask)[:, : self.num_frames]
        missing = self.num_frames - series.shape[1]
        tokens = self.to_token(F.pad(series, (0, 0, 0, max(0, missing))).transpose(1, 2))
        return self.norm(self.layers(tokens)).mean(dim=1)


def normalise_channels(logmel: Tensor, mask: Tensor) -> Tensor:
    """Zero mean and unit variance of each channel over the valid frames; padding becomes 0."""
    centred = logmel - masked_mean(logmel, mask)[:, None]
    variance = masked_mean(centred.square(), mask)[:, None]
    return centred / torch.sqrt(variance + 1e-5) * mask[..., None]


_FAMILIES: dict[str, Callable[[config.Student], nn.Module]] = {
    "conv": ConvEncoder,
    "token": TokenEncoder,
}


def build_student(settings: config.Student, num_classes: int) -> Student:
    """A student with random weights."""
    encoder = _FAMILIES[settings.family](settings)
    return Student(encoder, settings.logmel.num_mels, settings.width, num_classes, settings.dropout)


def count_parameters(model: nn.Module) -> int:
    """All parameters, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())
