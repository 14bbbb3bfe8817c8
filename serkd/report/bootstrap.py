"""Confidence intervals by resampling speakers: utterances of one speaker are not independent."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from serkd.train.metrics import confusion_metric

RESAMPLES = 10_000
_CHUNK = 1_000  # resamples at a time: bounds memory for many speakers, seeds and classes


@dataclass(frozen=True)
class Bootstrap:
    """The observed value, and all resampled values (B,) over `num_speakers`."""

    value: float
    samples: np.ndarray
    num_speakers: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Expanded percentile interval (Hesterberg, The American Statistician 69, 2015).

        The plain percentile interval is too narrow for few speakers, by what a normal interval
        with a divisor of n is narrower than a t interval; so the percentiles are taken further out:
        normal quantiles give way to √(n / (n-1)) those of t with n - 1 degrees of freedom.
        """
        tail = float(stats.t.ppf((1 - level) / 2, self.num_speakers - 1)) * self._widening
        share = float(stats.norm.cdf(tail))
        low, high = np.quantile(self.samples, [share, 1 - share])
        return float(low), float(high)

    @property
    def p(self) -> float:
        """Two-sided p of "the value is 0": the alpha at which `interval` begins to leave 0 out.

        Not less than so many resamples and speakers can tell: 0.004 for 10,000 and 12.
        """
        below, above = int((self.samples <= 0).sum()), int((self.samples >= 0).sum())
        share = (min(below, above) + 1) / (len(self.samples) + 1)
        tail = float(stats.norm.ppf(min(share, 0.5))) / self._widening
        return 2 * float(stats.t.cdf(tail, self.num_speakers - 1))

    @property
    def _widening(self) -> float:
        return math.sqrt(self.num_speakers / (self.num_speakers - 1))


def speaker_confusions(
    labels: np.ndarray,
    predictions: np.ndarray,
    speakers: np.ndarray,
    num_speakers: int,
    num_classes: int,
) -> np.ndarray:
    """(G, C, C) confusion counts of each speaker; arrays are (U,), integers from 0."""
    counts = np.zeros((num_speakers, num_classes, num_classes), np.int64)
    np.add.at(counts, (speakers, labels, predictions), 1)
    return counts


def bootstrap_difference(
    arm: np.ndarray,
    reference: np.ndarray,
    metric: str,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Cluster bootstrap over speakers of metric(arm) - metric(reference).

    Both are (S, G, C, C): per seed and speaker the confusion counts on the *same* utterances. The
    metric is that of all speakers' counts together, then averaged over an arm's seeds. A resample
    draws G speakers with replacement, the same for both arms: counts are summed with multinomial
    weights, so no utterance is touched again. Classes that a resample has no utterance of are left
    out of its UAR (Davison & Hinkley, Bootstrap Methods and their Application, 1997, §3.8).

    Raises:
        ValueError: fewer than two speakers, or different utterances.
    """
    _check_same_utterances(arm, reference)
    num_speakers = arm.shape[1]
    rng = np.random.default_rng(seed)
    share = np.full(num_speakers, 1 / num_speakers)
    parts = []
    for start in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - start)
        weights = rng.multinomial(num_speakers, share, size=size).astype(float)
        parts.append(_metric(arm, weights, metric) - _metric(reference, weights, metric))
    samples, once = np.concatenate(parts), np.ones((1, num_speakers))
    value = (_metric(arm, once, metric) - _metric(reference, once, metric)).item()
    return Bootstrap(value, samples, num_speakers)


def _check_same_utterances(arm: np.ndarray, reference: np.ndarray) -> None:
    support = [counts.sum(axis=-1) for counts in (arm, reference)]  # (S, G, C)
    if arm.shape[1:] != reference.shape[1:] or any((s != support[0][0]).any() for s in support):
        raise ValueError("both arms must have predictions of the same utterances")
    if arm.shape[1] < 2:
        raise ValueError(f"a bootstrap over speakers must have at least 2, got {arm.shape[1]}")


def _metric(counts: np.ndarray, weights: np.ndarray, metric: str) -> np.ndarray:
    """(B,) of counts (S, G, C, C) and weights (B, G): the mean over seeds."""
    num_seeds, num_speakers, num_classes = counts.shape[:3]
    flat = np.moveaxis(counts, 1, 0).reshape(num_speakers, -1).astype(float)
    summed = (weights @ flat).reshape(len(weights), num_seeds, num_classes, num_classes)
    return confusion_metric(summed, metric).mean(axis=1)
