"""What units say: occupancy, lengths, and how much of emotion, gender and speaker.

Purity and PNMI after HuBERT (arXiv 2106.07447, section V), there against phones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serkd.features.store import Frames

_DOMINANT = 10.0  # a unit with so many times its share of frames, 1/K, dominates
_NUM_PERMUTATIONS = 10
_SPEAKER_FACTOR = 2.0  # times what units say of emotion
_SPEAKER_LEAST = 0.05  # of what there is to say; below it the factor compares noise


@dataclass(frozen=True)
class Labels:
    """What is known of each utterance: class indices (U,) int64 from 0.

    `slot` is the gender that its units' ids say outright, 0 where they say none.
    """

    emotion: np.ndarray
    gender: np.ndarray
    speaker: np.ndarray
    slot: np.ndarray


def count_pairs(labels: np.ndarray, units: np.ndarray, num_units: int) -> np.ndarray:
    """Joint counts (num_labels, num_units) of frames; `labels` and `units` are (N,)."""
    pairs = labels.astype(np.int64) * num_units + units
    num_labels = int(labels.max()) + 1
    return np.bincount(pairs, minlength=num_labels * num_units).reshape(num_labels, num_units)


def compute_purity(table: np.ndarray) -> float:
    """Share of frames whose label is the most frequent one of their unit."""
    return float(table.max(axis=0).sum() / table.sum())


def compute_pnmi(table: np.ndarray) -> float:
    """I(label; unit) / H(label): how much of the label a unit tells, 0 to 1; 0 for one label."""
    if np.count_nonzero(table.sum(axis=1)) < 2:
        return 0.0  # both are rounding errors
    return _information(table) / compute_entropy(table.sum(axis=1))


def _information(table: np.ndarray) -> float:
    """I(row; column) of counts, in nats."""
    rows, columns = compute_entropy(table.sum(axis=1)), compute_entropy(table.sum(axis=0))
    return rows + columns - compute_entropy(table)


def compute_entropy(counts: np.ndarray) -> float:
    """Of the distribution that counts of any shape make, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def compute_told(
    units: Frames, labels: np.ndarray, given: np.ndarray, num_units: int, *, seed: int
) -> float:
    """How much units tell of a label that `given` does not, corrected for chance; 1 is all.

    I(label; unit | given) / H(label | given) grows with the number of labels and of units, even
    where they have nothing to do with each other. So, as in adjusted mutual information (Vinh,
    Epps & Bailey, JMLR 11, 2010), told = (x - chance) / (1 - chance), where `chance` is the mean
    of x over permutations of the labels. Frames of an utterance are alike, which theirs (over
    items) would take for information: we permute over utterances, within equal `given`. About 0
    is chance, below it less. `labels` and `given` are (U,).
    """
    share = _share_told(units, labels, given, num_units)
    if share is None:
        return 0.0
    rng = np.random.default_rng(seed)
    by_chance = []
    for _ in range(_NUM_PERMUTATIONS):
        dealt = labels.copy()
        for stratum in np.unique(given):
            (members,) = np.nonzero(given == stratum)
            dealt[members] = labels[rng.permutation(members)]
        by_chance.append(_share_told(units, dealt, given, num_units) or 0.0)
    chance = float(np.mean(by_chance))
    return (share - chance) / (1.0 - chance) if chance < 1.0 else 0.0


def _share_told(
    units: Frames, labels: np.ndarray, given: np.ndarray, num_units: int
) -> float | None:
    """I(label; unit | given) / H(label | given) over frames; None where nothing is left to tell.

    By the chain rule, from the tables of (label, given) and of `given` alone.
    """
    both = np.unique(np.stack([labels, given]), axis=1, return_inverse=True)[1].ravel()
    whole = count_pairs(np.repeat(both, units.lengths), units.values, num_units)
    known = count_pairs(np.repeat(given, units.lengths), units.values, num_units)
    left = compute_entropy(whole.sum(axis=1)) - compute_entropy(known.sum(axis=1))
    return (_information(whole) - _information(known)) / left if left > 1e-9 else None


def compute_occupancy(counts: np.ndarray) -> dict[str, float]:
    """Of the frames of each unit (K,): perplexity over K, dead and dominant units.

    `num_unused` have no frame, `num_dominant` more than ten times 1/K, and `num_for_half` of the
    most frequent ones hold half of the frames.
    """
    share = np.sort(counts / counts.sum())[::-1]
    return {
        "perplexity_share": float(np.exp(compute_entropy(counts))) / len(share),
        "largest_share": float(share[0]),
        "num_unused": int((share == 0).sum()),
        "num_dominant": int((share > _DOMINANT / len(share)).sum()),
        "num_for_half": int(np.searchsorted(np.cumsum(share), 0.5 - 1e-12)) + 1,
    }


def compute_lengths(units: Frames) -> dict[str, float]:
    """Frames that a unit lasts within an utterance: mean, median, 95th percentile."""
    starts = np.ones(len(units.values), bool)
    starts[1:] = units.values[1:] != units.values[:-1]
    starts[units.offsets[:-1][units.lengths > 0]] = True
    runs = np.diff(np.append(np.nonzero(starts)[0], len(starts)))
    return {
        "run_mean_frames": float(runs.mean()),
        "run_median_frames": float(np.median(runs)),
        "run_p95_frames": float(np.percentile(runs, 95)),
    }


def compute_utterance_entropy(units: Frames) -> float:
    """Mean over utterances of the entropy of their unit histogram, in nats."""
    counts = (np.unique(units[i], return_counts=True)[1] for i in range(len(units)))
    return float(np.mean([compute_entropy(found) for found in counts]))


def compute_quality(
    units: Frames, labels: Labels, num_units: int, *, seed: int = 0
) -> dict[str, Any]:
    """Everything above, of some utterances' units; `warnings` says what is wrong with them.

    ``<label>_told`` is `compute_told`; for the speaker, it is what units tell beyond the gender
    and beyond the gender in their ids: those they are meant to know.
    """
    result: dict[str, Any] = {
        "num_units": num_units,
        "num_frames": len(units.values),
        **compute_occupancy(np.bincount(units.values, minlength=num_units)),
        **compute_lengths(units),
        "utterance_entropy": compute_utterance_entropy(units),
    }
    nothing = np.zeros_like(labels.slot)
    meant = labels.gender * (labels.slot.max() + 1) + labels.slot
    for name, given in (("emotion", nothing), ("gender", nothing), ("speaker", meant)):
        values = getattr(labels, name)
        table = count_pairs(np.repeat(values, units.lengths), units.values, num_units)
        result[f"{name}_purity"] = compute_purity(table)
        result[f"{name}_pnmi"] = compute_pnmi(table)
        result[f"{name}_told"] = compute_told(units, values, given, num_units, seed=seed)
    return {**result, "warnings": find_warnings(result)}


def find_warnings(quality: Mapping[str, Any]) -> list[str]:
    """Units that mostly encode the speaker: they tell twice as much of them as of the emotion.

    Both are corrected for chance, and at least a twentieth of the speaker must be told. The rule
    and its numbers are ours.
    """
    emotion, speaker = max(quality["emotion_told"], 0.0), quality["speaker_told"]
    if speaker < _SPEAKER_LEAST or speaker <= _SPEAKER_FACTOR * emotion:
        return []
    return [
        f"units mostly encode the speaker: beyond chance they tell {speaker:.3f} of who speaks "
        f"(of a gender) and {emotion:.3f} of the emotion"
    ]
