"""Softmax with a margin: AM-Softmax and AAM-Softmax."""

import math

import torch
from torch import Tensor

from serkd.losses.logits import cross_entropy
from serkd.losses.terms import Term

_SMALLEST = 1e-12  # of a squared sine: its root has a slope there


def am_softmax(
    cosines: Tensor,
    labels: Tensor,
    *,
    scale: float,
    margin: float,
    class_weights: Tensor | None = None,
) -> Term:
    """Additive-margin softmax (Wang et al., arXiv 1801.05599, eq. 6), the loss of GMP-TL's stage 2.

    `cosines` (N, C) of normalised embeddings and class weights, `labels` (N,) int64. The margin is
    taken off the true class's cosine; at test time the plain cosines are the scores.
    `class_weights` (C,) as in `cross_entropy`.
    """
    margins = torch.zeros_like(cosines).scatter(1, labels[:, None], margin)
    return cross_entropy(scale * (cosines - margins), labels, class_weights=class_weights)


def aam_softmax(
    cosines: Tensor,
    labels: Tensor,
    *,
    scale: float,
    margin: float,
    class_weights: Tensor | None = None,
) -> Term:
    """Additive-angular-margin softmax (ArcFace: Deng et al., arXiv 1801.07698, eq. 3).

    Arguments as for `am_softmax`; the margin, in radians, is added to the angle of the true class.
    Beyond pi - margin, where cos(angle + margin) would rise again, the cosine goes on falling with
    a slope of one from -1: published code jumps there, this is continuous (our choice).
    """
    true = cosines.gather(1, labels[:, None])
    sine = (1.0 - true.square()).clamp_min(_SMALLEST).sqrt()
    turned = true * math.cos(margin) - sine * math.sin(margin)
    lowest = -math.cos(margin)  # the cosine of pi - margin
    turned = torch.where(true > lowest, turned, true - lowest - 1.0)
    moved = cosines.scatter(1, labels[:, None], turned)
    return cross_entropy(scale * moved, labels, class_weights=class_weights)
