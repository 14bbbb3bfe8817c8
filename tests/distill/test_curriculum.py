"""Difficulty, pacing and the order within a class."""

from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from serkd.config import Curriculum
from serkd.distill.curriculum import (
    PACINGS,
    compute_share,
    rank_within_class,
    score_difficulty,
)

Control = Literal["curriculum", "anti", "random"]
CONTROLS = ("curriculum", "anti", "random")


@pytest.mark.parametrize("pacing", PACINGS)
@pytest.mark.parametrize("start_share", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("full_at", [0.1, 0.5, 1.0])
def test_every_pacing_rises_from_its_start_to_all_data(
    pacing: Literal["none", "linear", "root", "exponential", "step"],
    start_share: float,
    full_at: float,
) -> None:
    settings = Curriculum(pacing=pacing, start_share=start_share, full_at=full_at)
    progress = np.linspace(0.0, 1.0, 201)
    shares = np.array([compute_share(settings, t) for t in progress])
    first = 1.0 if pacing == "none" else start_share
    assert shares[0] == pytest.approx(first, abs=1e-12)
    assert (shares >= first - 1e-12).all()
    assert (np.diff(shares) >= -1e-12).all()
    assert (shares[progress >= full_at] == 1.0).all()


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
    for scorer in ("teacher_cross_entropy", "teacher_entropy"):
        assert np.isfinite(score_difficulty(scorer, logits, np.array([1, 1]))).all()


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
