"""The student's objective: task losses, distillation and hint, weighed in one place."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from serkd.config import Distill
from serkd.losses.contrastive import supervised_contrastive
from serkd.losses.hint import embedding_hint
from serkd.losses.logits import (
    Temperature,
    cross_entropy,
    decoupled_distillation,
    distillation,
    logit_mse,
)
from serkd.losses.terms import Term
from serkd.models.student import StudentOutput


@dataclass(frozen=True)
class Target:
    """What is learned of a teacher: `logits` (B, C), and at which temperature.

    `hint` is the student's embedding through the projection and the teacher's, both (B, E); None
    where gamma is 0. Its differences below `hint_knee` are squared.
    """

    logits: Tensor
    temperature: Temperature
    hint: tuple[Tensor, Tensor] | None = None
    hint_knee: float = 0.0


def weigh_terms(
    settings: Distill, *, has_teacher: bool, alpha: float | None = None
) -> dict[str, float]:
    """Weights of (1 - alpha)·((1 - l)·CE + l·SupCon) + alpha·KD + gamma·hint, by term.

    `alpha` is that of the time where a curriculum changes it. A term of weight 0 is left out, and
    the sum is continuous there.
    """
    if alpha is None:
        alpha = settings.alpha
    alpha, contrast = alpha if has_teacher else 0.0, settings.supcon_weight
    weights = {
        "ce": (1 - alpha) * (1 - contrast),
        "supcon": (1 - alpha) * contrast,
        "kd": alpha,
        "hint": settings.gamma if has_teacher else 0.0,
    }
    return {name: weight for name, weight in weights.items() if weight > 0}


def distillation_term(
    settings: Distill,
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: Temperature,
    weight: float = 1.0,
) -> Term:
    """The KD of `settings.kd`, with the teacher's gradient; logits (B, C), labels (B,)."""
    if settings.kd == "mse_logits":
        return logit_mse(student_logits, teacher_logits, weight=weight)
    if settings.kd == "dkd":
        return decoupled_distillation(
            student_logits,
            teacher_logits,
            labels,
            temperature,
            target_weight=settings.dkd_target_weight,
            other_weight=settings.dkd_other_weight,
            weight=weight,
        )
    return distillation(student_logits, teacher_logits, temperature, weight=weight)


def student_terms(
    output: StudentOutput,
    labels: Tensor,
    settings: Distill,
    weights: Mapping[str, float],
    *,
    target: Target | None,
    keys: tuple[Tensor, Tensor, int],
) -> dict[str, Term]:
    """The terms of `weights`, which are those of `weigh_terms`.

    `labels` (B,) and `target` are this worker's; `keys` are the projections (M, 64) and labels
    (M,) of the global batch and this worker's offset in it.
    """
    terms = {}
    if weight := weights.get("ce"):
        smoothing = settings.label_smoothing
        terms["ce"] = cross_entropy(output.logits, labels, label_smoothing=smoothing, weight=weight)
    if weight := weights.get("supcon"):
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
    if target is not None and (weight := weights.get("kd")):
        logits, temperature = target.logits, target.temperature
        terms["kd"] = distillation_term(
            settings, output.logits, logits, labels, temperature, weight
        )
    if target is not None and target.hint is not None and (weight := weights.get("hint")):
        terms["hint"] = embedding_hint(*target.hint, knee=target.hint_knee, weight=weight)
    return terms
