"""Difficulty, pacing and the order within a class."""

from typing import Literal

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from serkd.config import Curriculum
from serkd.distill.curriculum import (
    PACINGS,
    TEACHER_SCORERS,
    compute_share,
    rank_within_class,
    score_difficulty,
    score_disagreement,
    score_divergence,
)

Control = Literal["curriculum", "anti", "random"]
CONTROLS = ("curriculum", "anti", "random")


def test_pacings_are_their_papers_formulas_half_way() -> None:
    """Platanios et al. with p = 1 and 2, and the geometric pace of Hacohen & Weinshall."""
    found = {name: pace(0.5, 0.2) for name, pace in PACINGS.items()}
    assert found == pytest.approx(
        {
            "none": 1.0,
            "linear": 0.6,
            "root": ((1 + 0.2**2) / 2) ** 0.5,
            "exponential": 0.2**0.5,
            "step": 0.2,
        }
    )


def _logits(num_utterances: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (num_utterances, 4)), rng.integers(4, size=num_utterances)


def test_cross_entropy_difficulty_is_torchs() -> None:
    logits, labels = _logits(50)
    expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none")
    found = score_difficulty("teacher_cross_entropy", logits, labels)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-10)


def test_entropy_difficulty_is_torchs_and_ignores_the_labels() -> None:
    logits, labels = _logits(50)
    expected = torch.distributions.Categorical(logits=torch.from_numpy(logits)).entropy()
    for some_labels in (labels, (labels + 1) % 4):
        found = score_difficulty("teacher_entropy", logits, some_labels)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-10)


def test_difficulty_is_finite_for_a_teacher_that_is_certain_and_wrong() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    for scorer in TEACHER_SCORERS:
        assert np.isfinite(score_difficulty(scorer, logits, np.array([1, 1]))).all()


def test_margin_difficulty_is_how_far_the_best_other_class_is_ahead() -> None:
    logits = np.array([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [3.0, 3.0, 0.0]])
    found = score_difficulty("margin", logits, np.array([0, 2, 1]))
    np.testing.assert_allclose(found, [-2.0, 3.0, 0.0])
    assert logits[0, 0] == 3.0  # what it was given is not written to


def test_self_paced_difficulty_is_torchs_divergence_of_the_student_from_the_teacher() -> None:
    (teacher, _), student = _logits(50), np.random.default_rng(1).normal(0, 3, (50, 4))
    expected = F.kl_div(
        torch.from_numpy(student).log_softmax(-1),
        torch.from_numpy(teacher).softmax(-1),
        reduction="none",
    ).sum(dim=1)
    np.testing.assert_allclose(score_divergence(teacher, student), expected.numpy(), atol=1e-9)
    np.testing.assert_allclose(score_divergence(teacher, teacher), 0.0, atol=1e-12)


def test_disagreement_is_the_entropy_of_votes() -> None:
    votes = [{"sad": 3}, {"sad": 2, "angry": 1}, {"sad": 1, "angry": 1, "happy": 1}]
    expected = [scipy.stats.entropy(list(counts.values())) for counts in votes]
    np.testing.assert_allclose(score_disagreement(votes), expected, atol=1e-12)


def test_equals_are_not_ordered_by_name() -> None:
    """Most annotators agree; in the order of names the first speakers would come first."""
    labels = np.repeat([0, 1], 50)
    position = rank_within_class(np.zeros(100), labels, "curriculum", seed=0)
    for label in (0, 1):
        order = np.argsort(position[labels == label])
        assert sorted(order) == list(range(50))
        assert order.tolist() != list(range(50))


@pytest.mark.parametrize("control", CONTROLS)
def test_every_class_is_present_from_the_first_epoch(control: Control) -> None:
    """Ranked over all data, a rare hard class would be missing from the early phase."""
    labels = np.repeat([0, 1, 2], [200, 30, 2])
    difficulty = np.where(labels == 2, 100.0, np.random.default_rng(0).random(len(labels)))
    position = rank_within_class(difficulty, labels, control, seed=0)
    for start_share in (0.01, 0.05, 0.5):
        first = position < compute_share(
            Curriculum(pacing="linear", control=control, start_share=start_share), 0.0
        )
        assert set(labels[first]) == {0, 1, 2}
        for label, size in enumerate((200, 30, 2)):
            assert first[labels == label].sum() == np.ceil(size * start_share)


def test_curriculum_takes_the_easiest_of_a_class_and_anti_the_hardest() -> None:
    labels = np.repeat([0, 1], 50)
    difficulty = np.random.default_rng(1).permutation(100).astype(float)
    for control, sign in (("curriculum", 1.0), ("anti", -1.0)):
        position = rank_within_class(difficulty, labels, control, seed=0)
        for label in (0, 1):
            members = np.flatnonzero(labels == label)
            by_position = members[np.argsort(position[members])]
            assert (np.diff(sign * difficulty[by_position]) > 0).all()


def test_random_order_depends_on_the_seed_and_not_on_difficulty() -> None:
    labels, rng = np.repeat([0, 1], 50), np.random.default_rng(0)
    first, again = (rank_within_class(rng.random(100), labels, "random", seed=3) for _ in "ab")
    np.testing.assert_array_equal(first, again)
    other = rank_within_class(rng.random(100), labels, "random", seed=4)
    assert (first != other).any()
