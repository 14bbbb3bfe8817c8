"""Students: three families behind one interface."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serkd import config
from serkd.models.heads import Standardise
from serkd.models.students.conv import ConvEncoder
from serkd.models.students.conv_token import ConvTokenEncoder
from serkd.models.students.deltas import append_deltas
from serkd.models.students.token import TokenEncoder

_PROJECTION = 64  # SupCon's space


@dataclass(frozen=True)
class StudentOutput:
    """`logits` (B, C), the pooled `embedding` (B, E) and its SupCon `projection` (B, 64)."""

    logits: Tensor
    embedding: Tensor
    projection: Tensor

    def float(self) -> "StudentOutput":
        """In float32, or in float64 where it is."""
        parts = (self.logits, self.embedding, self.projection)
        return StudentOutput(*(p if p.dtype == torch.float64 else p.float() for p in parts))


class Student(nn.Module):
    """Frames (B, F, N) with valid ones (B, F) to emotions; padding never changes a result.

    Each channel, of log-mel or of hidden states, is standardised by the training fold's
    statistics, which are part of the model. Deltas, where wanted, are taken of that.
    """

    def __init__(
        self, settings: config.Student, encoder: nn.Module, num_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        width = settings.shape.width
        self.standardise = Standardise(num_channels)
        self.has_deltas = settings.deltas
        self.encoder = encoder
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(width, num_classes)
        self.projector = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, _PROJECTION)
        )

    def forward(self, frames: Tensor, mask: Tensor) -> StudentOutput:
        frames = self.standardise(frames)
        if self.has_deltas:
            frames = append_deltas(frames, mask)
        embedding = self.encoder(frames, mask)
        logits = self.classifier(self.dropout(embedding))
        return StudentOutput(logits, embedding, self.projector(embedding))


_FAMILIES: dict[str, Callable[[config.Student, int], nn.Module]] = {
    "conv": ConvEncoder,
    "token": TokenEncoder,
    "conv_token": ConvTokenEncoder,
}


def build_student(settings: config.Student, num_classes: int, num_channels: int) -> Student:
    """A student with random weights, for frames of `num_channels` numbers."""
    seen = 3 * num_channels if settings.deltas else num_channels
    return Student(settings, _FAMILIES[settings.family](settings, seen), num_channels, num_classes)


def count_parameters(model: nn.Module) -> int:
    """All parameters, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())
