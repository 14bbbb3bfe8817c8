"""The data curriculum: difficulty, pacing, and which utterances an epoch uses."""

from collections.abc import Callable

import numpy as np

from serkd.config import Curriculum


def _linear(t: float, c0: float) -> float:
    return c0 + (1 - c0) * t


def _root(t: float, c0: float) -> float:
    return float(np.sqrt(c0**2 + (1 - c0**2) * t))


def _exponential(t: float, c0: float) -> float:
    return float(c0 ** (1 - t))


def _step(t: float, c0: float) -> float:
    return c0 if t < 1 else 1.0


PACINGS: dict[str, Callable[[float, float], float]] = {
    "none": lambda t, c0: 1.0,
    "linear": _linear,  # Platanios et al., arXiv 1903.09848, p = 1
    "root": _root,  # the same, p = 2
    "exponential": _exponential,  # Hacohen & Weinshall, arXiv 1904.03626, continuous
    "step": _step,
}


def compute_share(settings: Curriculum, progress: float) -> float:
    """Share of the training data in use at `progress` in [0, 1]: c0 at 0, 1 from `full_at` on."""
    t = min(1.0, progress / settings.full_at)
    return min(1.0, PACINGS[settings.pacing](t, settings.start_share))


def score_difficulty(scorer: str, teacher_logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Difficulty (U,) of utterances from the teacher's logits (U, C) and labels (U,).

    The teacher has seen these utterances, so it calls more of them easy than a new one would.
    """
    shifted = teacher_logits - teacher_logits.max(axis=1, keepdims=True)
    log_share = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if scorer == "teacher_entropy":
        return -(np.exp(log_share) * log_share).sum(axis=1)
    return -log_share[np.arange(len(labels)), labels]


def rank_within_class(
    difficulty: np.ndarray, labels: np.ndarray, control: str, seed: int
) -> np.ndarray:
    """Position (U,) in [0, 1) of each utterance in its class: easiest first.

    `control` anti = hardest first, random = any order. Within the class, because else the rare
    and hard classes would be absent at first.
    """
    if control == "anti":
        difficulty = -difficulty
    if control == "random":
        difficulty = np.random.default_rng(seed).random(len(difficulty))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = members[np.argsort(difficulty[members], kind="stable")]
        position[order] = np.arange(len(order)) / len(order)
    return position
