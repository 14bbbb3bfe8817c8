"""Cross-entropy on frame-level pseudo-labels."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from serkd.losses.terms import Term


def multi_scale_cross_entropy(
    logits: Sequence[Tensor], units: Sequence[Tensor], counted: Tensor
) -> dict[str, Term]:
    """Stage 1 of GMP-TL: sum over scales of CE_s / log K_s, averaged over the counted frames.

    `logits[s]` is (B, F, K_s), `units[s]` (B, F) int64 and `counted` (B, F) bool (masked or all
    valid frames). Dividing by log K makes a scale's loss 1 at chance whatever K is [our choice;
    the paper's weighting is not known]. Returns one term per scale.
    """
    terms = {}
    for scale, (scores, targets) in enumerate(zip(logits, units, strict=True)):
        total = F.cross_entropy(scores[counted], targets[counted], reduction="sum")
        terms[f"units_{scale}"] = Term(
            total, float(counted.sum()), 1.0 / math.log(scores.shape[-1])
        )
    return terms
