"""The quiz split: whole speakers of train, with every class on both sides where it can be."""

import numpy as np
import pytest

from serkd.distill.quiz import choose_quiz
from serkd.errors import InputError


@pytest.mark.parametrize("share", [0.05, 0.2, 0.45])
def test_the_quiz_has_whole_speakers_at_least_the_share_and_leaves_every_class(
    share: float,
) -> None:
    rng = np.random.default_rng(0)
    speakers = [f"s{i}" for i in rng.integers(10, size=300)]
    labels = rng.integers(4, size=300)
    labels[np.array(speakers) == "s3"] = 4  # only this speaker has class 4
    for seed in range(10):
        quiz = choose_quiz(speakers, labels, share, seed)
        asked = {s for s, is_quiz in zip(speakers, quiz, strict=True) if is_quiz}
        taught = {s for s, is_quiz in zip(speakers, quiz, strict=True) if not is_quiz}
        assert not asked & taught
        assert quiz.mean() >= share
        assert set(labels[~quiz]) == {0, 1, 2, 3, 4}
        np.testing.assert_array_equal(quiz, choose_quiz(speakers, labels, share, seed))


def test_a_quiz_that_would_cost_a_class_whoever_takes_it_is_refused() -> None:
    """Each speaker is the only one with some class, so nobody can be asked."""
    with pytest.raises(InputError, match=r"meta\.quiz_share"):
        choose_quiz(["a", "b", "b"], np.array([0, 1, 2]), 0.1, seed=0)


@pytest.mark.parametrize("seed", range(8))
def test_the_quiz_asks_every_class_where_speakers_with_it_can_be_spared(seed: int) -> None:
    """Ten speakers have one class each, two of them for every class: one speaker is not enough."""
    speakers = np.repeat([f"s{i}" for i in range(10)], 6)
    labels = np.repeat(np.arange(10) % 5, 6)
    # class 4 would take the quiz beyond half of all
    labels[speakers == "s9"] = 0
    speakers = np.concatenate([speakers, np.repeat("big", 70)])
    labels = np.concatenate([labels, np.full(70, 4)])
    quiz = choose_quiz(list(speakers), labels, 0.03, seed)
    assert set(labels[~quiz]) == {0, 1, 2, 3, 4}
    assert quiz.mean() <= 0.5
    assert {0, 1, 2, 3} <= set(labels[quiz])


@pytest.mark.parametrize("seed", range(8))
def test_few_large_speakers_do_not_take_the_place_of_many_small_ones(seed: int) -> None:
    """MELD's six friends say most of it, and hundreds of others a little."""
    sizes = [1600, 1500, 1500, 1400, 1300, 1200, *[10] * 140]
    speakers = np.repeat([f"s{i}" for i in range(len(sizes))], sizes)
    labels = np.random.default_rng(1).integers(7, size=len(speakers))
    assert 0.1 <= choose_quiz(list(speakers), labels, 0.1, seed).mean() <= 0.15
    halves = ["a"] * 50 + [f"b{i}" for i in range(50)]
    assert choose_quiz(halves, np.arange(100) % 4, 0.1, seed).mean() == 0.1


@pytest.mark.parametrize("seed", range(6))
def test_a_speaker_with_more_than_half_is_never_the_quiz(seed: int) -> None:
    quiz = choose_quiz(["big"] * 90 + ["small"] * 10, np.arange(100) % 5, 0.1, seed)
    assert quiz.mean() == 0.1


def test_a_speaker_too_many_is_not_asked_for_the_sake_of_a_class() -> None:
    """Only the largest speakers have class 1: training keeps most of what it has."""
    speakers = [*["a"] * 10, *["b"] * 10, *["c"] * 60, *["d"] * 60]
    labels = np.array([0] * 20 + [1] * 120)
    for seed in range(8):
        assert choose_quiz(speakers, labels, 0.05, seed).mean() <= 0.5
