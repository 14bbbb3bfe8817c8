"""What units say: purity, PNMI and occupancy (HuBERT, arXiv 2106.07447, section V)."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def compute_contingency(units: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Joint counts (num_labels, num_units) of frames; both inputs are (N,) of small ints."""
    table = np.zeros((labels.max() + 1, units.max() + 1), np.int64)
    np.add.at(table, (labels, units), 1)
    return table


def compute_purity(table: np.ndarray) -> float:
    """Share of frames whose label is the most frequent one of their unit."""
    return float(table.max(axis=0).sum() / table.sum())


def compute_pnmi(table: np.ndarray) -> float:
    """I(label; unit) / H(label): how much of the label a unit tells, 0 to 1; 0 for one label."""
    joint = table / table.sum()
    label, unit = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    information = (joint[filled] * np.log((joint / (label * unit + 1e-300))[filled])).sum()
    entropy = -(label[label > 0] * np.log(label[label > 0])).sum()
    # of one label alone both are rounding errors
    return float(information / entropy) if np.count_nonzero(label) > 1 else 0.0


def compute_occupancy(units: np.ndarray, num_units: int) -> dict[str, float]:
    """Perplexity of the units' distribution over K, the largest share, and how many are unused."""
    share = np.bincount(units, minlength=num_units) / len(units)
    used = share[share > 0]
    perplexity = float(np.exp(-(used * np.log(used)).sum()))
    return {
        "perplexity_share": perplexity / num_units,
        "largest_share": float(share.max()),
        "num_unused": int((share == 0).sum()),
    }


def compute_quality(
    units: np.ndarray, frame_labels: Mapping[str, np.ndarray], num_units: int
) -> dict[str, Any]:
    """Occupancy, and purity and PNMI against each labelling (emotion, gender, speaker)."""
    result: dict[str, Any] = {"num_units": num_units, **compute_occupancy(units, num_units)}
    for name, labels in frame_labels.items():
        table = compute_contingency(units, labels)
        result[f"{name}_purity"] = compute_purity(table)
        result[f"{name}_pnmi"] = compute_pnmi(table)
    return result
