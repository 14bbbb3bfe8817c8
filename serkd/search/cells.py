"""The cells of an ablation: every arm on every fold with every seed, and the trials that tune it.

Common random numbers: a cell's fold and seed decide its split, initialisation and order of batches,
whatever its arm. A cell is named by what it computes, so that arms share what they have in common
and a changed file finds what is there already.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.errors import InputError
from serkd.recipe import build_experiment
from serkd.search.ablation import Retune, Settings
from serkd.search.designs import Arm, Study
from serkd.search.dimension import Dimension
from serkd.search.identity import experiment_key
from serkd.stages.catalogue import MODELS, STAGES
from serkd.stages.graph import Graph
from serkd.stages.key import compute_key

_NAME_DIGITS = 16


@dataclass(frozen=True)
class Cell:
    """One experiment (its seed included) on one fold: one training run."""

    experiment: Experiment
    fold: str
    model: str = "student"  # or its teacher: what is trained and judged

    @property
    def seed(self) -> int:
        return self.experiment.seed

    @cached_property
    def name(self) -> str:
        """Of its result's file."""
        fields = {"experiment": experiment_key(self.experiment, self.model), "fold": self.fold}
        return compute_key(fields)[:_NAME_DIGITS]


def with_settings(experiment: Experiment, settings: Settings) -> Experiment:
    """An experiment with dotted settings that are known to be legal."""
    return build_experiment(experiment.model_dump(mode="json"), settings, origin="cell")


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    """Copied without being checked again: a thousand cells take no time."""
    return experiment.model_copy(update={"seed": seed})


def choose_folds(study: Study, names: Sequence[str]) -> tuple[str, ...]:
    """The folds that arms are compared on."""
    return tuple(names) if study.file.folds == "all" else study.file.folds


def find_arm_problems(study: Study, folds: Sequence[Fold]) -> Iterator[str]:
    """Arms whose cells will fail, known before any work, each with the first such fold."""
    chosen, model = choose_folds(study, [fold.name for fold in folds]), MODELS[study.file.model]
    for arm in study.arms:
        for fold in folds:
            if fold.name not in chosen:
                continue
            try:
                Graph(STAGES, arm.experiment, fold).check([model])
            except InputError as error:
                yield f"arm {arm.name!r} will fail, first on fold {fold.name}: {error}"
                break


def arm_cells(
    experiment: Experiment, folds: Sequence[str], seeds: Sequence[int], model: str = "student"
) -> dict[tuple[str, int], Cell]:
    """The cells of an arm, by fold and seed."""
    return {
        (fold, seed): Cell(with_seed(experiment, seed), fold, model)
        for seed in seeds
        for fold in folds
    }


def tuning_settings(retune: Retune) -> list[Settings]:
    """What is tried in every arm: nothing first, which is the arm's own, then Sobol's points.

    Sobol's sequence, scrambled (Owen 1998), covers few dimensions more evenly than chance; it is
    the same in every arm.
    """
    from scipy.stats import qmc  # a second of imports, in every trial's process too

    sampler = qmc.Sobol(len(retune.space), scramble=True, seed=retune.seed)
    count = max(retune.trials - 1, 0)
    # a power of two is drawn, which keeps the sequence balanced, and its first points are used
    points = sampler.random_base2(max(count - 1, 0).bit_length())[:count]
    tried = [
        {key: _at(dimension, float(u)) for (key, dimension), u in zip(retune.space.items(), row)}  # noqa: B905
        for row in points
    ]
    return [{}, *tried]


def _at(dimension: Dimension, share: float) -> object:
    """The value of a dimension at a share of its range, 0 to 1 without 1."""
    values = dimension.values()
    if values is not None and not dimension.log:
        return values[int(share * len(values))]
    low_end, high_end = map(float, dimension.int or dimension.float or (0, 0))
    if dimension.log:
        value = float(np.exp(np.log(low_end) + share * (np.log(high_end) - np.log(low_end))))
    else:
        value = low_end + share * (high_end - low_end)
    return round(value) if dimension.int is not None else value


def tuning_cells(
    arm: Arm, retune: Retune, folds: Sequence[str], model: str = "student"
) -> list[list[Cell]]:
    """For every trial of an arm its cells, one for each fold that it is tuned on."""
    chosen = retune.folds or folds[:1]
    return [
        [
            Cell(with_seed(with_settings(arm.experiment, settings), retune.seed), fold, model)
            for fold in chosen
        ]
        for settings in tuning_settings(retune)
    ]


def list_tuning_cells(study: Study, folds: Sequence[str]) -> list[Cell]:
    """Those of all trials of all arms, each once."""
    retune, model = study.file.retune, study.file.model
    if retune is None:
        return []
    trials = [trial for arm in study.arms for trial in tuning_cells(arm, retune, folds, model)]
    return list({cell.name: cell for trial in trials for cell in trial}.values())


def best_trial(values: Sequence[Sequence[float | None]]) -> int | None:
    """The trial with the highest mean over its folds, the first of equals; None if all failed."""
    means = {
        i: float(np.mean([v for v in trial if v is not None]))
        for i, trial in enumerate(values)
        if trial and all(value is not None for value in trial)
    }
    return max(means, key=lambda i: (means[i], -i)) if means else None


def unique_cells(groups: Sequence[Mapping[tuple[str, int], Cell]]) -> list[Cell]:
    """Each cell of some arms once, fold by fold and seed by seed, so that arms grow together."""
    rows = zip(*(cells.values() for cells in groups), strict=True)
    return list({cell.name: cell for row in rows for cell in row}.values())
