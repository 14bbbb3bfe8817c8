"""AM-Softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

from serkd.losses.terms import Term


def am_softmax(cosines: Tensor, labels: Tensor, *, scale: float, margin: float) -> Term:
    """Additive-margin softmax (Wang et al., arXiv 1801.05599, eq. 6), the loss of GMP-TL's stage 2.

    `cosines` (N, C) of normalised embeddings and class weights, `labels` (N,) int64. The margin is
    taken off the true class's cosine; at test time the plain cosines are the scores.
    """
    margins = torch.zeros_like(cosines).scatter(1, labels[:, None], margin)
    total = F.cross_entropy(scale * (cosines - margins), labels, reduction="sum")
    return Term(total, float(len(labels)))
