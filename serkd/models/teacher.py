"""The teacher's three forms: extractor, stage 1 and stage 2 on top of a backbone's suffix."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serkd.features.backbone import Suffix
from serkd.models.heads import POOLINGS, CosineClassifier, Standardise, unit_head


class MultiTaskExtractor(nn.Module):
    """Emotion and gender from one pooled embedding; its hidden states are clustered."""

    def __init__(self, suffix: Suffix, dim: int, num_classes: int, pooling: str) -> None:
        super().__init__()
        self.suffix = suffix
        self.pooling = POOLINGS[pooling](dim)
        self.standardise = Standardise(self.pooling.out_dim)
        self.emotion = nn.Linear(self.pooling.out_dim, num_classes)
        self.gender = nn.Linear(self.pooling.out_dim, 2)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Layer n (B, F, D) to the pooled, not yet standardised embedding (B, E)."""
        return self.pooling(self.suffix(hidden, mask)[-1], mask)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Layer n (B, F, D) to emotion logits (B, C) and gender logits (B, 2)."""
        embedding = self.standardise(self.pool(hidden, mask))
        return self.emotion(embedding), self.gender(embedding)


class SpanMask(nn.Module):
    """Replaces spans of frames by one learned vector (HuBERT's masking, here at layer n)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(dim))

    def forward(self, hidden: Tensor, masked: Tensor) -> Tensor:
        """(B, F, D) and (B, F) bool to (B, F, D)."""
        return torch.where(masked[..., None], self.vector, hidden)


class UnitTeacher(nn.Module):
    """Stage 1: one head per scale predicts each frame's unit."""

    def __init__(self, suffix: Suffix, dim: int, num_units: Sequence[int]) -> None:
        super().__init__()
        self.suffix = suffix
        self.span_mask = SpanMask(dim)
        self.heads = nn.ModuleList(unit_head(dim, count) for count in num_units)

    def forward(self, hidden: Tensor, mask: Tensor, masked: Tensor | None) -> list[Tensor]:
        """Layer n (B, F, D) to unit logits (B, F, K_s) for each scale."""
        if masked is not None:
            hidden = self.span_mask(hidden, masked)
        last = self.suffix(hidden, mask)[-1]
        return [head(last) for head in self.heads]


@dataclass(frozen=True)
class TeacherOutput:
    """`logits` (B, C), what a student learns from, and the standardised `embedding` (B, E)."""

    logits: Tensor
    embedding: Tensor


class EmotionTeacher(nn.Module):
    """Stage 2: utterance embedding to emotions.

    `logits` are the scores of training without the margin: scale · cosine for AM-Softmax.
    """

    def __init__(
        self,
        suffix: Suffix,
        dim: int,
        num_classes: int,
        *,
        pooling: str,
        dropout: float,
        scale: float | None,
    ) -> None:
        super().__init__()
        self.suffix = suffix
        self.span_mask = SpanMask(dim)
        self.pooling = POOLINGS[pooling](dim)
        width = self.pooling.out_dim
        self.standardise = Standardise(width)
        self.dropout = nn.Dropout(dropout)
        self.scale = scale
        self.classifier: nn.Module = (
            nn.Linear(width, num_classes) if scale is None else CosineClassifier(width, num_classes)
        )

    def forward(self, hidden: Tensor, mask: Tensor, masked: Tensor | None = None) -> TeacherOutput:
        """Layer n (B, F, D) with valid frames (B, F); `masked` frames are hidden (training)."""
        if masked is not None:
            hidden = self.span_mask(hidden, masked)
        embedding = self.standardise(self.pool(hidden, mask))
        return TeacherOutput(self.classify(self.dropout(embedding)), embedding)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Layer n (B, F, D) to the pooled, not yet standardised embedding (B, E)."""
        return self.pooling(self.suffix(hidden, mask)[-1], mask)

    def classify(self, embedding: Tensor) -> Tensor:
        """Embeddings (B, E) to logits (B, C)."""
        scores = self.classifier(embedding)
        return scores if self.scale is None else self.scale * scores
