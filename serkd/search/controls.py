"""Control experiments: the same student without what a recipe claims for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serkd.config import Experiment
from serkd.recipe import build_experiment
from serkd.search.identity import experiment_key

Changes = dict[str, Any]

RECIPE = "recipe"
SMOOTHING = 0.1
_ONE_LOSS: Changes = {
    "distill.teacher": "trained",
    "distill.gamma": 0.0,
    "distill.supcon_weight": 0.0,
    "distill.label_smoothing": 0.0,
    "curriculum.pacing": "none",
    "curriculum.temperature_curriculum": "off",
    "curriculum.alpha_curriculum": "off",
    "meta.order": "off",
}


def _cross_entropy(experiment: Experiment) -> Changes:
    """No teacher and no curriculum: what the labels alone teach."""
    return {**_ONE_LOSS, "distill.alpha": 0.0}


def _label_smoothing(experiment: Experiment) -> Changes:
    """Cross-entropy with smoothed labels, of which KD may be a costly form.

    (Yuan et al., arXiv 1909.11723.) The recipe's own smoothing, or 0.1 (Szegedy et al., arXiv
    1512.00567).
    """
    amount = experiment.distill.label_smoothing or SMOOTHING
    return {**_cross_entropy(experiment), "distill.label_smoothing": amount}


def _plain_kd(experiment: Experiment) -> Changes:
    """Hinton et al.'s distillation (arXiv 1503.02531) by the recipe's teacher, at its temperature.

    Its weight is the recipe's, or the mean over training where a curriculum changes that.
    """
    alpha = average_alpha(experiment)
    return {**_ONE_LOSS, "distill.kd": "kl", "distill.alpha": alpha}


def _random_teacher(experiment: Experiment) -> Changes:
    """The recipe with a teacher that was never trained (Sarnthein et al., arXiv 2302.12091).

    Nor is it by the quiz: without meta-knowledge, but with the knee that layers that learn need.
    """
    distill, is_live = experiment.distill, experiment.meta.has_live_layers
    changes: Changes = {"distill.teacher": "random"}
    if experiment.meta.order != "off":
        changes["meta.order"] = "off"
    if is_live and distill.gamma > 0:
        changes["distill.hint_knee"] = distill.choose_knee(is_live=True)
    return changes if experiment.asks_teacher else {}


def _twice_as_long(experiment: Experiment) -> Changes:
    """The recipe for twice its epochs: is its student finished (Beyer et al., arXiv 2106.05237)?

    Schedules are shares of training, so that all of them take twice as long.
    """
    return {"student.fit.epochs": 2 * experiment.student.fit.epochs}


CONTROLS: dict[str, Callable[[Experiment], Changes]] = {
    "cross_entropy": _cross_entropy,
    "label_smoothing": _label_smoothing,
    "plain_kd": _plain_kd,
    "random_teacher": _random_teacher,
    "twice_as_long": _twice_as_long,
}


@dataclass(frozen=True)
class Control:
    """An arm: the recipe with dotted `changes`.

    `same_as` is the recipe or an earlier control that trains the same student; None is for one
    that has to be run.
    """

    name: str
    changes: Changes
    experiment: Experiment
    same_as: str | None


def average_alpha(experiment: Experiment) -> float:
    """The weight of KD, averaged over training; both schedules have the mean of their ends."""
    curriculum = experiment.curriculum
    start, end = curriculum.alpha_ends(experiment.distill.alpha)
    return end + (start - end) * curriculum.alpha_full_at / 2


def build_controls(experiment: Experiment) -> list[Control]:
    """All controls of a recipe, of the same seed, in the order of `CONTROLS`.

    Raises:
        InputError: a control is no legal experiment.
    """
    known = {experiment_key(experiment): RECIPE}
    found = []
    for name, change in CONTROLS.items():
        changes = change(experiment)
        data = experiment.model_dump(mode="json")
        changed = build_experiment(data, changes, origin=f"control {name}")
        key = experiment_key(changed)
        same_as = known.get(key)
        known.setdefault(key, name)
        found.append(Control(name, changes, changed, same_as))
    return found
