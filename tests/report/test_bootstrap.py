"""The bootstrap over speakers: against a plain loop, and its coverage."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from serkd.report.bootstrap import Bootstrap, bootstrap_difference, speaker_confusions
from serkd.train.metrics import METRICS, confusion_metric

C = 4


def _scikit(metric: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are predicted only
        if metric == "uar":
            return float(balanced_accuracy_score(labels, predictions))
        if metric == "war":
            return float(accuracy_score(labels, predictions))
        return float(f1_score(labels, predictions, average="weighted", zero_division=0))


def _predict(rng: np.random.Generator, labels: np.ndarray, skill: np.ndarray) -> np.ndarray:
    wrong = (labels + rng.integers(1, C, labels.shape)) % C
    return np.where(rng.random(labels.shape) < skill, labels, wrong)


@pytest.mark.parametrize("metric", METRICS)
def test_every_resample_is_the_metric_of_the_drawn_speakers_utterances(metric: str) -> None:
    """Speakers of unequal size; class 3 is one speaker's alone, so resamples lack it."""
    rng, sizes = np.random.default_rng(0), (3, 20, 7, 12, 5)
    speakers = np.repeat(np.arange(5), sizes)
    labels = rng.integers(3, size=len(speakers))
    labels[:2] = 3
    reference = _predict(rng, labels, np.full(len(labels), 0.5))
    seeds = [_predict(rng, labels, np.full(len(labels), 0.7)) for _ in range(2)]
    arm_counts = np.stack([speaker_confusions(labels, p, speakers, 5, C) for p in seeds])
    counts = speaker_confusions(labels, reference, speakers, 5, C)[None]
    found = bootstrap_difference(arm_counts, counts, metric, num_resamples=60, seed=5)
    draws = np.random.default_rng(5).multinomial(5, np.full(5, 0.2), size=60)
    assert any(draw[0] == 0 for draw in draws)

    def difference(draw: np.ndarray) -> float:
        rows = np.concatenate(
            [np.flatnonzero(speakers == s) for s in range(5) for _ in range(draw[s])]
        )
        arm = np.mean([_scikit(metric, labels[rows], p[rows]) for p in seeds])
        return float(arm - _scikit(metric, labels[rows], reference[rows]))

    expected = [difference(draw) for draw in draws]
    np.testing.assert_allclose(found.samples, expected, atol=1e-12)
    assert found.value == pytest.approx(difference(np.ones(5, int)), abs=1e-12)


def test_the_interval_is_of_t_quantiles_and_p_its_inverse() -> None:
    samples = np.random.default_rng(1).normal(0.02, 0.01, 20_000)
    found = Bootstrap(0.02, samples, num_speakers=8)
    half = stats.t.ppf(0.975, 7) * np.sqrt(8 / 7) * 0.01
    assert found.interval() == pytest.approx((0.02 - half, 0.02 + half), abs=1e-3)
    low, _ = found.interval(1 - found.p)
    assert low == pytest.approx(0.0, abs=2e-4)
    many = Bootstrap(0.02, samples, num_speakers=100_000)
    plain = np.quantile(samples, [0.025, 0.975])
    assert many.interval() == pytest.approx(plain, abs=1e-5)


def _clustered(rng: np.random.Generator, num_speakers: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (G, 40) and two arms' predictions (2, G, 40); speakers differ in skill and gain."""
    labels = rng.integers(C, size=(num_speakers, 40))
    skill = 1 / (1 + np.exp(-rng.normal(0.5, 0.8, (num_speakers, 1))))
    better = np.clip(skill + rng.normal(0.05, 0.15, skill.shape), 0.02, 0.98)
    return labels, np.stack([_predict(rng, labels, skill), _predict(rng, labels, better)])


def _count(labels: np.ndarray, predictions: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    return speaker_confusions(
        labels.ravel(), predictions.ravel(), clusters.ravel(), clusters.max() + 1, C
    )


def _coverage(num_speakers: int, num_experiments: int = 400, *, by_speaker: bool = True) -> float:
    rng = np.random.default_rng(2)
    labels, arms = _clustered(rng, 20_000)
    whole = [_count(labels, arm, np.zeros_like(labels)).sum(axis=0) for arm in arms]
    truth = confusion_metric(whole[1], "uar") - confusion_metric(whole[0], "uar")
    hits = 0
    for seed in range(num_experiments):
        labels, (reference, arm) = _clustered(rng, num_speakers)
        each = np.arange(labels.size).reshape(labels.shape)
        clusters = each // 40 if by_speaker else each
        pair = [_count(labels, predictions, clusters)[None] for predictions in (arm, reference)]
        low, high = bootstrap_difference(*pair, "uar", num_resamples=500, seed=seed).interval()
        hits += low <= truth <= high
    return hits / num_experiments


@pytest.mark.parametrize("num_speakers", [6, 10, 24])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(num_speakers: int) -> None:
    assert 0.90 <= _coverage(num_speakers) <= 0.985


def test_resampling_utterances_instead_would_be_too_sure() -> None:
    assert _coverage(10, 150, by_speaker=False) <= 0.85


def test_other_utterances_and_a_single_speaker_are_refused() -> None:
    labels, speakers = np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1])
    counts = speaker_confusions(labels, labels, speakers, 2, C)[None]
    other = speaker_confusions(labels[::-1], labels, speakers, 2, C)[None]
    with pytest.raises(ValueError, match="predictions of the same utterances"):
        bootstrap_difference(counts, other, "uar")
    with pytest.raises(ValueError, match="at least 2, got 1"):
        bootstrap_difference(counts[:, :1], counts[:, :1], "uar")
    with pytest.raises(ValueError, match="metric must be one of uar, war, wf1, got 'f1'"):
        bootstrap_difference(counts, counts, "f1")
