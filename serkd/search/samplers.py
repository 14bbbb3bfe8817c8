"""Optuna's samplers by the names of a search space."""

import random
import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from serkd.search.space import Space

_STARTUP_TRIALS = 5

# named by a space, apart from a grid, which is a list; each is given the seed. Keys that a sampler
# cannot relate to others (conditional ones; for qmc all choices) it draws at random, which is no
# reason for a warning each
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS, constant_liar=True),
    "random": lambda seed: RandomSampler(seed=seed),
    "qmc": lambda seed: QMCSampler(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    ),
    "gp": lambda seed: GPSampler(
        seed=seed, n_startup_trials=_STARTUP_TRIALS, warn_independent_sampling=False
    ),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
}


def build_sampler(name: str, seed: int) -> BaseSampler:
    """A new sampler.

    A search that goes on must not be given the seed that it had before: it would repeat itself.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[name](seed)


def seed_proposal(space: Space, number: int, attempt: int) -> int:
    """The seed of the sampler that proposes one trial of a sweep, at some attempt.

    A seed of its own, so that a search which was killed goes on and does not begin again. The
    points of qmc are numbered already: there the seed only shuffles them.
    """
    if space.sampler == "qmc":
        return space.seed
    return random.Random(f"{space.seed}/{number}/{attempt}").getrandbits(32)
