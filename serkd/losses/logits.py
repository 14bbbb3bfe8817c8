"""Losses on logits: cross-entropy and three kinds of distillation."""

import torch
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


Temperature = float | Tensor  # a number, or a tensor () or (N, 1): one for each utterance


def distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: Temperature,
    *,
    weight: float = 1.0,
) -> Term:
    """temperature² · KL(teacher ‖ student), both softened (Hinton et al., arXiv 1503.02531, eq. 1).

    Both logits are (N, C). The teacher is not detached here: meta-learning needs its gradient.
    The factor temperature² stays whatever the weight, so the loss has no jump at any alpha.
    """
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    student = F.log_softmax(student_logits / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True)
    total = (divergence * temperature**2).sum()
    return Term(total, float(len(student_logits)), weight)


def logit_mse(student_logits: Tensor, teacher_logits: Tensor, *, weight: float = 1.0) -> Term:
    """Mean over the C classes of the logits' squared differences (Kim et al., arXiv 2105.08919).

    Both logits are (N, C). It has no temperature, and unlike the others it also asks for the
    teacher's mean logit.
    """
    total = (student_logits - teacher_logits).square().mean(dim=-1).sum()
    return Term(total, float(len(student_logits)), weight)


def decoupled_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: Temperature,
    *,
    target_weight: float,
    other_weight: float,
    weight: float = 1.0,
) -> Term:
    """DKD: temperature² · (target_weight·TCKD + other_weight·NCKD) (Zhao et al., CVPR 2022).

    TCKD is the divergence of (label, any other class), NCKD that of the other classes among
    themselves; KL = TCKD + (1 - teacher's share of the label)·NCKD. Logits are (N, C), `labels`
    (N,) int64. Computed from logarithms: no share of 0 gives a NaN, however certain a teacher is.
    """
    is_label = F.one_hot(labels, student_logits.shape[1]).bool()
    target, other = (
        F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1, keepdim=True)
        for student, teacher in zip(
            _decouple(student_logits / temperature, is_label),
            _decouple(teacher_logits / temperature, is_label),
            strict=True,
        )
    )
    total = ((target_weight * target + other_weight * other) * temperature**2).sum()
    return Term(total, float(len(student_logits)), weight)


def _decouple(logits: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor]:
    """Log shares of (label, the rest), (N, 2), and of the others among themselves, (N, C - 1)."""
    others = logits[~is_label].view(len(logits), -1)
    rest = others.logsumexp(dim=1, keepdim=True)
    pair = torch.cat([logits[is_label][:, None], rest], dim=1)
    return pair.log_softmax(dim=1), others.log_softmax(dim=1)
