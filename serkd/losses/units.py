"""Cross-entropy on frame-level pseudo-labels."""

import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from serkd.losses.terms import Term


def multi_scale_cross_entropy(
    logits: Sequence[Tensor],
    units: Sequence[Tensor],
    counted: Tensor,
    weights: Mapping[str, float],
) -> dict[str, Term]:
    """Stage 1 of GMP-TL: sum over scales of w_s · CE_s / log K_s, over the counted frames' mean.

    `logits[s]` is (B, F, K_s), `units[s]` (B, F) int64 and `counted` (B, F) bool (masked or all
    valid frames); `weights` has the scales' names and w_s, in that order. Weights are used as they
    are, so their sum is the loss at chance: dividing by log K makes a scale's 1 whatever K is
    [both our choice; the paper's weighting is not known]. Returns one term per scale.
    """
    terms = {}
    for (name, weight), scores, targets in zip(weights.items(), logits, units, strict=True):
        total = F.cross_entropy(scores[counted], targets[counted], reduction="sum")
        scaled = weight / math.log(scores.shape[-1])
        terms[f"units_{name}"] = Term(total, float(counted.sum()), scaled)
    return terms
