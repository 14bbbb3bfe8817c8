"""A hint: the student's embedding is to tell the teacher's."""

import torch.nn.functional as F
from torch import Tensor

from serkd.losses.terms import Term


def embedding_hint(
    guess: Tensor, embedding: Tensor, *, knee: float = 0.0, weight: float = 1.0
) -> Term:
    """1 - cosine, plus the mean absolute difference, of two (N, E).

    Differences below `knee` count by their square (Huber 1964), continued smoothly: the slope of an
    absolute value is a jump, of which a teacher that is to learn through it has no derivative.

    `guess` is the student's pooled embedding through a projection, `embedding` the teacher's. The
    pair of terms is DistilHuBERT's (arXiv 2110.01900), without its log sigmoid around the
    cosine and on one pooled vector, not on frames [both our choice].
    """
    angle = 1.0 - F.cosine_similarity(guess, embedding, dim=-1)
    apart = F.smooth_l1_loss(guess, embedding, beta=knee, reduction="none").mean(dim=-1)
    total = (angle + apart).sum()
    return Term(total, float(len(guess)), weight)
