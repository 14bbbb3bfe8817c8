"""A hint: the student's embedding is to tell the teacher's."""

import torch.nn.functional as F
from torch import Tensor

from serkd.losses.terms import Term


def embedding_hint(guess: Tensor, embedding: Tensor, *, weight: float = 1.0) -> Term:
    """1 - cosine, plus the mean absolute difference, of two (N, E).

    `guess` is the student's pooled embedding through a projection, `embedding` the teacher's. The
    pair of terms is DistilHuBERT's (arXiv 2110.01900), without its log sigmoid around the
    cosine and on one pooled vector, not on frames [both our choice].
    """
    angle = 1.0 - F.cosine_similarity(guess, embedding, dim=-1)
    total = (angle + (guess - embedding).abs().mean(dim=-1)).sum()
    return Term(total, float(len(guess)), weight)
