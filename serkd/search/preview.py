"""The trials that a search will run, as far as that can be known before it."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import optuna

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.search.build import Legality
from serkd.search.count import Node, Tracer
from serkd.search.draw import draw_params
from serkd.search.grid import list_cells
from serkd.search.samplers import build_sampler, seed_proposal
from serkd.search.space import Space
from serkd.search.suggest import decode_params, suggest
from serkd.stages.catalogue import STUDENT

_ASKED = 300  # trials that Optuna itself is asked for; more are drawn without it
_TRIES = 64  # at finding a legal trial that is not there yet


@dataclass
class Preview:
    """Legal trials: their values and experiments; `refused` says why others are none.

    `is_exact`: the search will run these, and no others. Otherwise it learns from results, or is
    too long to be asked beforehand, and these are as many at random.
    """

    is_exact: bool
    params: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[Experiment] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    num_cells: int | None = None  # of a grid, legal or not


def preview_trials(space: Space, legality: Legality) -> Preview:
    """The trials of a space, as many as its budget says.

    Raises:
        InputError: no legal trial was found.
    """
    if space.sampler == "grid":
        found = _preview_grid(space, legality)
    else:
        is_asked = space.budget.trials <= _ASKED
        found = Preview(is_exact=is_asked and space.sampler in ("random", "qmc"))
        proposals = _ask(space) if is_asked else _draw(space)
        _take(found, proposals, legality, space.budget.trials)
    if not found.params:
        raise InputError(f"no trial is legal: {'; '.join(found.refused) or 'the space is empty'}")
    return found


def _preview_grid(space: Space, legality: Legality) -> Preview:
    found = Preview(is_exact=True, num_cells=0)
    for params in list_cells(space.space):
        found.num_cells = (found.num_cells or 0) + 1
        if len(found.params) >= space.budget.trials:
            continue
        if (experiment := _build(found, params, legality)) is not None:
            found.params.append(params)
            found.experiments.append(experiment)
    return found


def _take(
    found: Preview, proposals: Iterator[Iterator[dict[str, Any]]], legality: Legality, count: int
) -> None:
    """Of each trial's attempts the first that is legal and another experiment than those before."""
    tracer, known = Tracer(), set[Node]()
    for attempts in islice(proposals, count):
        for params in islice(attempts, _TRIES):
            experiment = _build(found, params, legality)
            if experiment is None or (node := tracer.find(experiment, STUDENT)) in known:
                continue
            known.add(node)
            found.params.append(params)
            found.experiments.append(experiment)
            break


def _build(found: Preview, params: dict[str, Any], legality: Legality) -> Experiment | None:
    try:
        return legality.build(params)
    except InputError as error:
        found.refused[str(error).partition(", got ")[0]] += 1
        return None


def _ask(space: Space) -> Iterator[Iterator[dict[str, Any]]]:
    """What Optuna proposes to a search that has no results yet; attempts at each trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["minimize"] * len(space.objective) if space.is_pareto else None
    )

    def attempts(number: int) -> Iterator[dict[str, Any]]:
        for attempt in range(_TRIES):
            seed = seed_proposal(space, number, attempt)
            study.sampler = build_sampler(space.sampler, seed)
            trial = study.ask()
            suggest(trial, space.space)
            yield decode_params(trial.params)

    number = 0
    while True:
        yield attempts(number)
        number += 1


def _draw(space: Space) -> Iterator[Iterator[dict[str, Any]]]:
    rng = random.Random(space.seed)

    def attempts() -> Iterator[dict[str, Any]]:
        while True:
            yield draw_params(space.space, rng)

    while True:
        yield attempts()
