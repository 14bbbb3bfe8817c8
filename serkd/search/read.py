"""Reading a search space: everything that is wrong with it, at once."""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from serkd.config import Experiment
from serkd.errors import InputError, refuse
from serkd.recipe import build_experiment, require_kind
from serkd.search.constraints import MEASURED, Constraints
from serkd.search.draw import draw_params
from serkd.search.space import Scheduler, Smoke, Space
from serkd.search.suggest import meant
from serkd.section import validate
from serkd.stages.key import get_dotted
from serkd.yaml12 import read_yaml

_DRAWS = 64  # of other keys' values, to find some that a value goes with


def read_space(
    path: Path, values: Mapping[str, Any], *, smoke: bool = False
) -> tuple[Space, Experiment]:
    """Read a space and its base experiment, with dotted `values` laid over the base.

    With `smoke`, the space in its reduced size.

    Raises:
        InputError: unknown keys, illegal values anywhere in a range, a `when` that names a key
            which is not searched before, or a constraint that cannot be computed.
    """
    content = read_yaml(path)
    require_kind(content, "a search space", path)
    space = validate(Space, content, str(path))
    if smoke:
        space = reduce_space(space, str(path))
    data = read_yaml(path.parent / space.base)
    fixed = {**space.set, **values}
    base = build_experiment(data, fixed, origin=space.base)
    problems = [
        *_condition_problems(space),
        *_value_problems(space, data, fixed),
        *_constraint_problems(space, base),
    ]
    refuse([f"{path}: {problem}" for problem in problems])
    return space, base


def reduce_space(space: Space, origin: str) -> Space:
    """A space in the size of its `smoke`."""
    smoke = space.smoke
    if unknown := [dotted for dotted in smoke.space if dotted not in space.space]:
        raise InputError(
            *(f"{origin}: smoke.space.{dotted}: must be a key of space" for dotted in unknown)
        )
    reduced = space.model_dump(mode="json") | {
        "set": {**space.set, **smoke.set},
        "space": {
            dotted: smoke.space.get(dotted, dimension).model_dump(mode="json")
            for dotted, dimension in space.space.items()
        },
        "folds": smoke.folds,
        "seeds": None,
        # each trial shows that all of its stages run
        "scheduler": Scheduler(name="none").model_dump(mode="json"),
        "budget": {"trials": smoke.trials},
        "smoke": Smoke().model_dump(mode="json"),
    }
    if smoke.constraints is not None:
        reduced["constraints"] = smoke.model_dump(mode="json")["constraints"]
    return validate(Space, reduced, f"{origin}: smoke")


def _value_problems(
    space: Space, data: Mapping[str, Any], fixed: Mapping[str, Any]
) -> Iterator[str]:
    for dotted, dimension in space.space.items():
        for value in dimension.examples():
            try:
                built = build_experiment(
                    data, {**fixed, **_context(space, dotted), dotted: value}, origin=dotted
                )
            except InputError as error:
                if not _is_legal_somewhere(space, data, fixed, dotted, value):
                    yield str(error)
                continue
            if isinstance(get_dotted(built, dotted), BaseModel):
                yield f"{dotted}: must be a single setting, it is a section"


def _is_legal_somewhere(
    space: Space, data: Mapping[str, Any], fixed: Mapping[str, Any], dotted: str, value: object
) -> bool:
    """Whether a value goes with some values of the other keys: heads must divide the width."""
    rng = random.Random(0)
    wanted = {**_context(space, dotted), dotted: value}
    for _ in range(_DRAWS if len(space.space) > len(wanted) else 0):
        try:
            drawn = draw_params(space.space, rng, wanted)
            build_experiment(data, {**fixed, **drawn}, origin=dotted)
        except InputError:
            continue
        return dotted in drawn
    return False


def _constraint_problems(space: Space, base: Experiment) -> Iterator[str]:
    try:
        constraints = Constraints(space.constraints, num_classes=2)
    except ValueError as error:
        yield from str(error).splitlines()
        return
    for i, (text, expression) in enumerate(constraints.parsed):
        if any(name in MEASURED for name in expression.names):
            continue
        try:
            found = constraints.compute(expression, base)
        except ValueError as error:
            if not any(name in space.space for name in expression.names):
                yield f"constraints.{i}: {error}"
            continue
        if not isinstance(found, bool):
            yield f"constraints.{i}: must be true or false, {text!r} is {found!r}"


def _context(space: Space, dotted: str) -> dict[str, Any]:
    """The conditions under which a key is searched, and theirs; only keys above it count."""
    earlier = list(space.space)[: list(space.space).index(dotted)]
    found: dict[str, Any] = {}
    for name, wanted in space.space[dotted].when.items():
        if name in earlier:
            value = meant(space.space[name], wanted)[0]
            found |= {**_context(space, name), name: value}
    return found


def _condition_problems(space: Space) -> Iterator[str]:
    earlier: list[str] = []
    for dotted, dimension in space.space.items():
        if dotted.startswith(("protocol.", "corpus.manifest", "corpus.more_manifests")):
            yield f"{dotted}: must not be searched, all trials of a sweep have the same folds"
        if dotted == "seed":
            yield f"{dotted}: must not be searched, give seeds: every trial is run with each"
        if dotted.startswith("train."):
            yield f"{dotted}: must not be searched, it changes no result"
        for name, wanted in dimension.when.items():
            if name not in earlier:
                yield f"{dotted}.when: must name a key searched above it, got {name!r}"
            elif not all(map(space.space[name].admits, meant(space.space[name], wanted))):
                yield (
                    f"{dotted}.when.{name}: must be one of that key's choices, or a list of them, "
                    f"got {wanted!r}"
                )
        earlier.append(dotted)
