"""Losses on logits: cross-entropy and distillation."""

import torch.nn.functional as F
from torch import Tensor

from serkd.losses.terms import Term


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    weight: float = 1.0,
    class_weights: Tensor | None = None,
) -> Term:
    """Mean cross-entropy over samples whose label is not negative.

    `logits` is (N, C), `labels` (N,) int64; a label of -100 (sealed, unknown) adds nothing. With
    `class_weights` (C,) it is the mean weighted by those of the samples' classes.
    """
    total = F.cross_entropy(
        logits, labels, class_weights, reduction="sum", label_smoothing=label_smoothing
    )
    known = labels[labels >= 0]
    count = float(len(known)) if class_weights is None else float(class_weights[known].sum())
    return Term(total, count, weight)


def distillation(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, *, weight: float = 1.0
) -> Term:
    """temperature² · KL(teacher ‖ student), both softened (Hinton et al., arXiv 1503.02531, eq. 1).

    Both logits are (N, C). The teacher is not detached here: meta-learning needs its gradient.
    The factor temperature² stays whatever the weight, so the loss has no jump at any alpha.
    """
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    student = F.log_softmax(student_logits / temperature, dim=-1)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2
    return Term(total, float(len(student_logits)), weight)
