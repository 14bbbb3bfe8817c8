"""The student's objective: task losses and distillation, weighed in one place."""

from torch import Tensor

from serkd.config import Distill
from serkd.losses.contrastive import supervised_contrastive
from serkd.losses.logits import cross_entropy, distillation
from serkd.losses.terms import Term
from serkd.models.student import StudentOutput


def student_terms(
    output: StudentOutput,
    labels: Tensor,
    settings: Distill,
    *,
    teacher_logits: Tensor | None,
    keys: tuple[Tensor, Tensor, int],
) -> dict[str, Term]:
    """(1 - alpha)·((1 - l)·CE + l·SupCon) + alpha·KD, as named terms.

    `labels` (B,) and `teacher_logits` (B, C) are this worker's; `keys` are the projections (M, 64)
    and labels (M,) of the global batch and this worker's offset in it. Every weight may be 0 or
    1: a term of weight 0 is left out, and the sum is continuous there.
    """
    alpha, contrast = settings.alpha, settings.supcon_weight
    if teacher_logits is None:
        alpha = 0.0
    terms = {}
    if (weight := (1 - alpha) * (1 - contrast)) > 0:
        smoothing = settings.label_smoothing
        terms["ce"] = cross_entropy(output.logits, labels, label_smoothing=smoothing, weight=weight)
    if (weight := (1 - alpha) * contrast) > 0:
        all_projections, all_labels, offset = keys
        terms["supcon"] = supervised_contrastive(
            output.projection,
            labels,
            all_projections,
            all_labels,
            temperature=settings.supcon_temperature,
            offset=offset,
            weight=weight,
        )
    if teacher_logits is not None and alpha > 0:
        terms["kd"] = distillation(
            output.logits, teacher_logits, settings.temperature, weight=alpha
        )
    return terms
