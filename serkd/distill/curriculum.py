"""Curricula: schedules of data, temperature and loss weight; difficulty, and ranks by it.

Schedules are pure functions of `progress`, the share of training that is done.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from serkd.config import Curriculum, Distill


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
    "exponential": _exponential,  # Hacohen & Weinshall, arXiv 1904.03626
    "step": _step,
}


def compute_share(settings: Curriculum, progress: float) -> float:
    """Share of the training data in use at `progress` in [0, 1]: c0 at 0, 1 from `full_at` on.

    With `num_jumps` n it stays, between jumps, what it was at the last one: exponential pacing is
    then c0·inc^⌊t/step⌋ with inc = c0^(-1/n), Hacohen & Weinshall's.
    """
    t = min(1.0, progress / settings.full_at)
    if settings.num_jumps is not None:
        # a hair more, since 0.3 / 0.1 is less than 3
        t = math.floor(t * settings.num_jumps + 1e-9) / settings.num_jumps
    return min(1.0, PACINGS[settings.pacing](t, settings.start_share))


def compute_epoch_share(settings: Curriculum, epoch: int, num_epochs: int) -> float:
    """Share in use in an epoch (from 0): that of when it begins, and all in the last.

    A `full_at` after the last epoch's beginning would else keep the hardest from the student.
    """
    is_last = epoch + 1 == num_epochs
    return 1.0 if is_last else compute_share(settings, epoch / num_epochs)


def compute_reversal(settings: Curriculum, progress: float) -> float:
    """CTKD's lambda at `progress`: -(1 - cos(pi·min(e, E)/E))/2, from 0 to -1.

    (Li et al., AAAI 2023, arXiv 2211.16231.) E is `temperature_full_at`; the paper's is 10 epochs.
    """
    t = min(1.0, progress / settings.temperature_full_at)
    return -(1.0 - math.cos(math.pi * t)) / 2


def compute_first_temperature(distill: Distill, settings: Curriculum) -> float:
    """Where a temperature begins: as in plain distillation, or as near as its bounds allow.

    As near as a fortieth of the range: nearer to a bound a sigmoid hardly moves.
    """
    if settings.temperature_curriculum == "off":
        return distill.temperature
    margin = settings.temperature_range / 40
    low, high = settings.temperature_start, settings.temperature_start + settings.temperature_range
    return min(max(distill.temperature, low + margin), high - margin)


def compute_alpha(distill: Distill, settings: Curriculum, progress: float) -> float:
    """Weight of KD at `progress`: alpha_start at 0, alpha_end from `alpha_full_at` on."""
    start, end = settings.alpha_ends(distill.alpha)
    t = min(1.0, progress / settings.alpha_full_at)
    if settings.alpha_curriculum == "cosine":
        t = (1.0 - math.cos(math.pi * t)) / 2
    return start + (end - start) * t


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -_log_softmax(logits)[np.arange(len(labels)), labels]


def _entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    log_share = _log_softmax(logits)
    return -(np.exp(log_share) * log_share).sum(axis=1)


def _margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Best other logit - the label's: below 0 where the teacher is right."""
    others = logits.astype(np.float64)
    rows = np.arange(len(labels))
    others[rows, labels] = -np.inf
    return others.max(axis=1) - logits[rows, labels]


TEACHER_SCORERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "teacher_cross_entropy": _cross_entropy,
    "teacher_entropy": _entropy,
    "margin": _margin,
}


def score_difficulty(scorer: str, teacher_logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Difficulty (U,) of utterances from the teacher's logits (U, C) and labels (U,).

    Logits of a teacher that was trained on these utterances call nearly all of them easy; those of
    teachers that were trained without their speakers do not.
    """
    return TEACHER_SCORERS[scorer](teacher_logits, labels)


def score_divergence(teacher_logits: np.ndarray, student_logits: np.ndarray) -> np.ndarray:
    """Difficulty (U,) = KL(teacher ‖ student) at temperature 1, of logits (U, C): self-paced."""
    teacher, student = _log_softmax(teacher_logits), _log_softmax(student_logits)
    return (np.exp(teacher) * (teacher - student)).sum(axis=1)


def score_disagreement(votes: Sequence[Mapping[str, int]]) -> np.ndarray:
    """Difficulty (U,) = entropy of each utterance's votes, 0 where annotators are of one mind.

    Every utterance must have votes.
    """
    found = []
    for counts in votes:
        shares = np.array(list(counts.values())) / sum(counts.values())
        found.append(-(shares * np.log(shares)).sum())
    return np.array(found)


def rank_within_class(
    difficulty: np.ndarray, labels: np.ndarray, control: str, seed: int
) -> np.ndarray:
    """Position (U,) in [0, 1) of each utterance in its class: easiest first.

    `control` anti = hardest first, random = any order. Within the class, because else the rare
    and hard classes would be absent at first. Equals are in random order: in that of their names
    they would be a speaker's.
    """
    lots = np.random.default_rng(seed).random(len(difficulty))
    if control == "anti":
        difficulty = -difficulty
    if control == "random":
        difficulty = lots
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = members[np.lexsort((lots[members], difficulty[members]))]
        position[order] = np.arange(len(order)) / len(order)
    return position
