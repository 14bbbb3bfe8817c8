"""A search space: a strict YAML file, compiled to Optuna's define-by-run."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
from pydantic import BaseModel, Field, model_validator

from serkd.config import Experiment, PositiveInt
from serkd.errors import InputError, refuse
from serkd.recipe import build_experiment
from serkd.section import Section, validate
from serkd.yaml12 import read_yaml

_MAX_CHECKED = 256  # whole numbers of a range that are tried one by one

# named here, since the fields of Dimension hide the built-in names
IntRange = tuple[int, int]
FloatRange = tuple[float, float]


class Dimension(Section):
    """One searched key: exactly one of `choice`, `int` and `float`."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    int: IntRange | None = Field(None, description="lowest and highest, both included")
    float: FloatRange | None = Field(None, description="lowest and highest")
    log: bool = Field(False, description="int and float only: sample the logarithm")
    step: PositiveInt | None = Field(None, description="int only")
    when: dict[str, Any] = Field(
        default_factory=dict, description="searched only if these keys have these values"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        kinds = [name for name in ("choice", "int", "float") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"must have exactly one of choice, int, float, got {kinds or 'none'}")
        ends = self.int or self.float
        if ends is not None and ends[0] >= ends[1]:
            raise ValueError(f"must go from low to high, got {list(ends)}")
        if self.log and (ends is None or ends[0] <= 0):
            raise ValueError("log must be used with a range above 0")
        if self.step is not None and (self.int is None or self.log):
            raise ValueError("step must be used with int, without log")
        return self

    def examples(self) -> list[Any]:
        """Values that together show whether the whole range is legal."""
        if self.int is not None:
            low, high = self.int
            every = range(low, high + 1, self.step or 1)
            return (
                [*every] if len(every) <= _MAX_CHECKED else [*every[: _MAX_CHECKED - 1], every[-1]]
            )
        return list(self.choice or self.float or ())


class Scheduler(Section):
    name: Literal["asha", "none"] = "asha"
    grace_epochs: PositiveInt = Field(5, description="no trial is stopped before")
    reduction_factor: int = Field(3, ge=2, description="one in so many survives a rung")


class Resources(Section):
    """What one trial holds while it runs."""

    cpu: PositiveInt = 1
    gpu: float = Field(0.0, ge=0.0)


class Space(Section):
    base: str = Field(description="the recipe, relative to this file")
    set: dict[str, Any] = Field(default_factory=dict, description="dotted keys laid over the base")
    space: dict[str, Dimension] = Field(min_length=1)
    fold: str = "1"
    trials: PositiveInt = 20
    objective: Literal["dev_uar"] = Field("dev_uar", description="maximised; best epoch so far")
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = Field(0, ge=0)
    scheduler: Scheduler = Scheduler()
    resources: Resources = Resources()


def read_space(path: Path, values: Mapping[str, Any]) -> tuple[Space, Experiment]:
    """Read a space and its base experiment, with dotted `values` laid over the base.

    Raises:
        InputError: unknown keys, illegal values anywhere in a range, or a `when` that names a key
            which is not searched before.
    """
    space = validate(Space, read_yaml(path), str(path))
    data = read_yaml(path.parent / space.base)
    fixed = {**space.set, **values}
    base = build_experiment(data, fixed, origin=space.base)
    problems = [*_condition_problems(space), *_value_problems(space, data, fixed)]
    refuse([f"{path}: {problem}" for problem in problems])
    return space, base


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
                yield str(error)
                continue
            if _is_section(built, dotted):
                yield f"{dotted}: must be a single setting, it is a section"


def _context(space: Space, dotted: str) -> dict[str, Any]:
    """The conditions under which a key is searched, and theirs; only keys above it count."""
    earlier = list(space.space)[: list(space.space).index(dotted)]
    found: dict[str, Any] = {}
    for name, value in space.space[dotted].when.items():
        if name in earlier:
            found |= {**_context(space, name), name: value}
    return found


def _is_section(experiment: Experiment, dotted: str) -> bool:
    value: Any = experiment
    for name in dotted.split("."):
        value = getattr(value, name)
    return isinstance(value, BaseModel)


def _condition_problems(space: Space) -> Iterator[str]:
    earlier: list[str] = []
    for dotted, dimension in space.space.items():
        if dotted.startswith(("protocol.", "corpus.manifest", "corpus.more_manifests")):
            yield f"{dotted}: must not be searched, all trials of a sweep have the same folds"
        for name, value in dimension.when.items():
            if name not in earlier:
                yield f"{dotted}.when: must name a key searched above it, got {name!r}"
            elif value not in (space.space[name].choice or ()):
                yield f"{dotted}.when.{name}: must be one of that key's choices, got {value!r}"
        earlier.append(dotted)


def suggest(trial: optuna.Trial, dimensions: Mapping[str, Dimension]) -> None:
    """Ask Optuna for every active key, in the file's order; conditions see the keys above.

    Choices travel as JSON text, because Optuna stores only plain values.
    """
    chosen: dict[str, Any] = {}
    for dotted, dimension in dimensions.items():
        if any(chosen.get(name, math.nan) != value for name, value in dimension.when.items()):
            continue
        if dimension.choice is not None:
            texts = [json.dumps(value) for value in dimension.choice]
            chosen[dotted] = json.loads(trial.suggest_categorical(dotted, texts))
        elif dimension.int is not None:
            step = dimension.step or 1
            chosen[dotted] = trial.suggest_int(dotted, *dimension.int, step=step, log=dimension.log)
        elif dimension.float is not None:
            chosen[dotted] = trial.suggest_float(dotted, *dimension.float, log=dimension.log)


def decode_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `suggest`'s encoding: dotted keys to values."""
    return {
        dotted: json.loads(value) if isinstance(value, str) else value
        for dotted, value in params.items()
    }
