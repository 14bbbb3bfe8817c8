"""What a finished search says: which settings mattered, how surely, and where it hit an edge."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState, create_trial

from serkd.search.dimension import Dimension
from serkd.search.suggest import encode_params

_LEAST = 8  # trials, below which a fifth of them is hardly one
_EDGE = 0.02  # of a range


@dataclass(frozen=True)
class Importance:
    """A key's share of what decides the best trials, with a band of 90 % of the resamplings."""

    key: str
    share: float
    low: float
    high: float
    num_trials: int


def compute_importance(
    dimensions: Mapping[str, Dimension],
    params: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    *,
    maximise: bool = True,
    num_resamples: int = 100,
    seed: int = 0,
) -> list[Importance]:
    """PED-ANOVA's importance of every key, the largest first; empty below 8 trials.

    (Watanabe, Bansal & Hutter, IJCAI 2023; Optuna's, with its default of the best tenth as the
    target.) Over all keys that every trial has; a conditional key is looked at among the trials
    that have it, and scaled by their share [ours]. The band is the 5th to 95th percentile of
    trials drawn with replacement: wide where the trials do not tell.
    """
    if len(params) < _LEAST:
        return []
    rng = np.random.default_rng(seed)
    point = _shares(dimensions, params, values, maximise)
    drawn: dict[str, list[float]] = {key: [] for key in point}
    for _ in range(num_resamples):
        index = rng.integers(0, len(params), len(params))
        again = _shares(
            dimensions, [params[i] for i in index], [values[i] for i in index], maximise
        )
        for key, found in drawn.items():
            found.append(again.get(key, 0.0))
    bands = {key: np.percentile(found, (5, 95)) for key, found in drawn.items()}
    rows = [
        Importance(
            key,
            share,
            float(min(bands[key][0], share)),
            float(max(bands[key][1], share)),
            sum(key in each for each in params),
        )
        for key, share in point.items()
    ]
    return sorted(rows, key=lambda row: -row.share)


def _shares(
    dimensions: Mapping[str, Dimension],
    params: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    maximise: bool,
) -> dict[str, float]:
    """Importance by key, adding up to 1 where anything matters."""
    whole = [key for key in dimensions if all(key in each for each in params)]
    found = _evaluate(dimensions, whole, params, values, maximise)
    for key in dimensions:
        index = [i for i, each in enumerate(params) if key in each]
        if key in whole or len(index) < _LEAST:
            continue
        some = [params[i] for i in index]
        alone = _evaluate(dimensions, [key], some, [values[i] for i in index], maximise)
        found[key] = alone[key] * len(index) / len(params)
    total = sum(found.values())
    return {key: value / total if total else 0.0 for key, value in found.items()}


def _evaluate(
    dimensions: Mapping[str, Dimension],
    keys: Sequence[str],
    params: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    maximise: bool,
) -> dict[str, float]:
    """PED-ANOVA on a study in memory; 0 for keys that have a single value."""
    varied = [key for key in keys if len({repr(each[key]) for each in params}) > 1]
    found = dict.fromkeys(keys, 0.0)
    if not varied or len(set(values)) == 1:
        return found
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if maximise else "minimize")
    distributions = {key: as_distribution(dimensions[key]) for key in varied}
    for each, value in zip(params, values, strict=True):
        encoded = encode_params(dimensions, {key: each[key] for key in varied})
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE, value=value, params=encoded, distributions=distributions
            )
        )
    shares = PedAnovaImportanceEvaluator().evaluate(study, params=varied)
    return found | {key: float(np.nan_to_num(share)) for key, share in shares.items()}


def as_distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    if dimension.choice is not None:
        texts = [encode_params({"": dimension}, {"": value})[""] for value in dimension.choice]
        return CategoricalDistribution(texts)
    if dimension.int is not None:
        step = round(dimension.step or 1)
        return IntDistribution(*dimension.int, log=dimension.log, step=step)
    ends = cast(tuple[float, float], dimension.float)
    return FloatDistribution(*ends, log=dimension.log, step=dimension.step)


def list_edges(
    dimensions: Mapping[str, Dimension], best: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Ranges whose edge the best trial lies at, each with what that means: (key, words)."""
    for key, value in best.items():
        ends = dimensions[key].int or dimensions[key].float
        if ends is None:
            continue
        low, high, at = (_scale(dimensions[key], each) for each in (*ends, value))
        share = (at - low) / (high - low)
        if share <= _EDGE or share >= 1 - _EDGE:
            edge, where = (ends[0], "lower") if share <= _EDGE else (ends[1], "upper")
            yield (
                key,
                f"the best trial's {value:g} lies at the {where} end of {ends[0]:g} to "
                f"{ends[1]:g}: beyond {edge:g} may be better",
            )


def _scale(dimension: Dimension, value: float) -> float:
    return float(np.log(value)) if dimension.log else float(value)
