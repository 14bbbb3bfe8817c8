"""The teacher's three forms: extractor, stage 1 and stage 2 on top of a backbone's suffix."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serkd.features.backbone import Suffix
from serkd.models.heads import POOLINGS, CosineClassifier, LayerMix, Standardise, unit_head


class OnSuffix(nn.Module):
    """What the three models share: a suffix, and one sequence of frames that heads read of it.

    `frame_dim` is the width of those frames: D, or with "concat" that of all layers n..L together.
    """

    def __init__(self, suffix: Suffix, dim: int, layer_mix: bool | str) -> None:
        super().__init__()
        self.suffix, self.layer_mix = suffix, layer_mix
        num_layers = len(suffix.body.layers) + 1
        self.mix = LayerMix(num_layers) if layer_mix is True else None
        self.frame_dim = dim * num_layers if layer_mix == "concat" else dim

    def frames(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Layer n (B, F, D) to the last layer, or layers n..L mixed or joined, (B, F, frame_dim).

        Of the input's precision, also under autocast: poolings add up hundreds of frames.
        """
        states = self.suffix(hidden, mask)
        if self.layer_mix == "concat":
            return torch.cat([state.to(hidden.dtype) for state in states], dim=-1)
        return states[-1].to(hidden.dtype) if self.mix is None else self.mix(states)


class MultiTaskExtractor(OnSuffix):
    """Emotion and gender from one pooled embedding; its hidden states are clustered."""

    def __init__(
        self,
        suffix: Suffix,
        dim: int,
        num_classes: int,
        pooling: str,
        *,
        layer_mix: bool | str = False,
    ) -> None:
        super().__init__(suffix, dim, layer_mix)
        self.pooling = POOLINGS[pooling](self.frame_dim)
        self.standardise = Standardise(self.pooling.out_dim)
        self.emotion = nn.Linear(self.pooling.out_dim, num_classes)
        self.gender = nn.Linear(self.pooling.out_dim, 2)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Layer n (B, F, D) to the pooled, not yet standardised embedding (B, E)."""
        return self.pooling(self.frames(hidden, mask), mask)

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


class UnitTeacher(OnSuffix):
    """Stage 1: one head per scale predicts each frame's unit."""

    def __init__(
        self, suffix: Suffix, dim: int, num_units: Sequence[int], *, layer_mix: bool | str = False
    ) -> None:
        super().__init__(suffix, dim, layer_mix)
        self.span_mask = SpanMask(dim)
        self.heads = nn.ModuleList(unit_head(self.frame_dim, count) for count in num_units)

    def forward(self, hidden: Tensor, mask: Tensor, masked: Tensor | None) -> list[Tensor]:
        """Layer n (B, F, D) to unit logits (B, F, K_s) for each scale."""
        if masked is not None:
            hidden = self.span_mask(hidden, masked)
        frames = self.frames(hidden, mask)
        return [head(frames) for head in self.heads]


@dataclass(frozen=True)
class TeacherOutput:
    """`logits` (B, C), what a student learns from, and the standardised `embedding` (B, E).

    `frames` (B, F, frame_dim) are what was pooled.
    """

    logits: Tensor
    embedding: Tensor
    frames: Tensor


class EmotionTeacher(OnSuffix):
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
        layer_mix: bool | str = False,
    ) -> None:
        super().__init__(suffix, dim, layer_mix)
        self.span_mask = SpanMask(dim)
        self.pooling = POOLINGS[pooling](self.frame_dim)
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
        frames = self.frames(hidden, mask)
        embedding = self.standardise(self.pooling(frames, mask))
        return TeacherOutput(self.classify(self.dropout(embedding)), embedding, frames)

    def pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Layer n (B, F, D) to the pooled, not yet standardised embedding (B, E)."""
        return self.pooling(self.frames(hidden, mask), mask)

    def classify(self, embedding: Tensor) -> Tensor:
        """Embeddings (B, E) to logits (B, C)."""
        scores = self.classifier(embedding)
        return scores if self.scale is None else self.scale * scores
