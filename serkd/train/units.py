"""What stage 1 predicts: the units of a fold's utterances at every scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from serkd.features.store import read_frames
from serkd.losses.terms import Term
from serkd.losses.units import multi_scale_cross_entropy
from serkd.models.heads import unit_head
from serkd.train.batches import pad_units
from serkd.train.data import FoldData


@dataclass(frozen=True)
class UnitScale:
    """A scale's stored units, how many there are, and what they weigh in the loss."""

    layer: int
    num_clusters: int
    num_units: int
    weight: float
    folder: Path

    @property
    def name(self) -> str:
        """What the scale is called in logs."""
        return f"L{self.layer}_K{self.num_clusters}"


class UnitTargets:
    """The units of training and dev utterances, scale by scale as they are given."""

    def __init__(self, scales: Sequence[UnitScale], data: FoldData) -> None:
        self.scales, keep = scales, set(data.utt_ids)
        self.units = [
            read_frames(scale.folder, "units", keep).select(data.utt_ids) for scale in scales
        ]

    @property
    def term_names(self) -> list[str]:
        """Of the loss's terms, one for each scale."""
        return [f"units_{scale.name}" for scale in self.scales]

    def _pad(self, index: np.ndarray, like: Tensor) -> list[Tensor]:
        return [pad_units(units, index).to(like.device) for units in self.units]

    def terms(
        self, logits: Sequence[Tensor], index: np.ndarray, counted: Tensor
    ) -> dict[str, Term]:
        """Unit logits (B, F, K_s) of some utterances (B,) to each scale's loss.

        `counted` (B, F) are the frames that it is the mean of.
        """
        weights = {scale.name: scale.weight for scale in self.scales}
        scores = [values.float() for values in logits]  # a forward pass may be less precise
        return multi_scale_cross_entropy(scores, self._pad(index, counted), counted, weights)

    def count_hits(
        self, logits: Sequence[Tensor], index: np.ndarray, counted: Tensor
    ) -> np.ndarray:
        """(S, 2): for each scale, counted frames whose unit is the likeliest, and all of them."""
        pairs = zip(logits, self._pad(index, counted), strict=True)
        hits = [float((scores.argmax(-1) == units)[counted].sum()) for scores, units in pairs]
        return np.array([[count, float(counted.sum())] for count in hits])


@dataclass(frozen=True)
class KeptUnits:
    """Stage 1's task for stage 2 to go on with: its scales, and the `weights` of its heads."""

    scales: Sequence[UnitScale]
    weights: Mapping[str, Tensor]


class UnitRegulariser:
    """Stage 1's loss over all valid frames of stage 2's own forward pass.

    The heads go on learning beside the teacher and are no part of it.
    """

    def __init__(self, kept: KeptUnits, dim: int, data: FoldData, weight: float) -> None:
        scaled = [replace(scale, weight=weight * scale.weight) for scale in kept.scales]
        self.targets = UnitTargets(scaled, data)
        self.heads = nn.ModuleList(unit_head(dim, scale.num_units) for scale in scaled)
        self.heads.load_state_dict(kept.weights)

    def terms(self, frames: Tensor, index: np.ndarray, mask: Tensor) -> dict[str, Term]:
        """Frames (B, F, D) that the teacher's pooling reads to each scale's loss."""
        return self.targets.terms([head(frames) for head in self.heads], index, mask)
