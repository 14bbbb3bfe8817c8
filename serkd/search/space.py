"""A search space as strict models: what may be varied, and how it is searched."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from serkd.config.fit import PositiveFloat, PositiveInt, Seed
from serkd.search.dimension import Dimension
from serkd.section import Section

Objective = Literal["dev_uar", "dev_war", "dev_wf1", "parameters", "latency_ms"]
DIRECTIONS: dict[str, Literal["max", "min"]] = {
    "dev_uar": "max",
    "dev_war": "max",
    "dev_wf1": "max",
    "parameters": "min",
    "latency_ms": "min",
}


def _check_folds(names: object) -> object:
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    if names != "all":
        raise ValueError(f'must be all or names of folds in quotes, like ["1", "2"], got {names}')
    return names


FoldNames = Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(_check_folds)]
PARETO_SAMPLERS = ("nsga2", "tpe", "random", "grid")


class Scheduler(Section):
    """When a weak trial is stopped early."""

    name: Literal["asha", "median", "none"] = "asha"
    fidelity: Literal["epoch", "fold"] = Field(
        "epoch", description="a trial is compared after so many of its student's epochs, or folds"
    )
    grace_epochs: PositiveInt = Field(
        5, description="no trial is stopped before; with fidelity fold it has run one fold"
    )
    reduction_factor: int = Field(3, ge=2, description="asha: one in so many survives a rung")


class Budget(Section):
    """What a sweep may take; `serkd plan` compares it with what it predicts."""

    trials: PositiveInt = 20
    hours: PositiveFloat | None = Field(None, description="of the whole sweep; null = no limit")
    disk_gb: PositiveFloat | None = Field(None, description="of its stages; null = no limit")


class Resources(Section):
    """What one trial holds while it runs."""

    cpu: PositiveInt = 1
    gpu: float = Field(0.0, ge=0.0)


class Rule(Section):
    """A constraint without an expression: a value of the experiment lies between two ends."""

    value: str = Field(description="a dotted key, parameters or latency_ms")
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _has_an_end(self) -> "Rule":
        if self.min is None and self.max is None:
            raise ValueError("must have min, max or both, got neither")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"must have min at most max, got {self.min:g} and {self.max:g}")
        return self


def _kind(value: object) -> str:
    return "expression" if isinstance(value, str) else "rule"


Constraint = Annotated[
    Annotated[str, Tag("expression")] | Annotated[Rule, Tag("rule")], Discriminator(_kind)
]


class Smoke(Section):
    """The same question, reduced to what runs in seconds: see `serkd sweep --smoke`."""

    set: dict[str, Any] = Field(default_factory=dict, description="laid over the space's own set")
    space: dict[str, Dimension] = Field(
        default_factory=dict, description="other ranges for keys of the space"
    )
    constraints: tuple[Constraint, ...] | None = Field(
        None, description="instead of the space's; null = the same"
    )
    folds: tuple[str, ...] = Field(("1",), min_length=1)
    trials: PositiveInt = 2


class Space(Section):
    """A question: which values of some keys are best."""

    base: str = Field(description="the recipe, relative to this file")
    set: dict[str, Any] = Field(default_factory=dict, description="dotted keys laid over the base")
    space: dict[str, Dimension] = Field(min_length=1)
    constraints: tuple[Constraint, ...] = Field(
        (), description="what every trial must keep; those that do not are never run"
    )
    objective: tuple[Objective, ...] = Field(
        ("dev_uar",),
        min_length=1,
        description="dev_* of the best epoch is maximised, parameters and latency_ms minimised; "
        "several give a Pareto front",
    )
    sampler: Literal["tpe", "random", "qmc", "gp", "nsga2", "grid"] = "tpe"
    seed: int = Field(0, ge=0, description="of the sampler")
    scheduler: Scheduler = Scheduler()
    folds: FoldNames = Field(
        ("1",), description="names of folds, or all; a trial's value is the mean over them"
    )
    seeds: tuple[Seed, ...] | None = Field(
        None, description="of every trial, on every fold; null = the base's seed"
    )
    budget: Budget = Budget()
    resources: Resources = Resources()
    smoke: Smoke = Smoke()

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value  # strict models take no list here

    @property
    def is_pareto(self) -> bool:
        """Whether there are several objectives, and so no single best trial."""
        return len(self.objective) > 1

    @model_validator(mode="after")
    def _fits_together(self) -> "Space":
        problems = [*self._objective_problems(), *self._design_problems()]
        if self.sampler == "grid":
            problems += [
                f"space.{dotted} must be choice, int or float with a step for sampler 'grid', "
                "got a range without steps"
                for dotted, dimension in self.space.items()
                if dimension.values() is None
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _objective_problems(self) -> list[str]:
        problems = []
        if len(set(self.objective)) < len(self.objective):
            problems.append(f"objective must not repeat a name, got {list(self.objective)}")
        if not any(name.startswith("dev_") for name in self.objective):
            problems.append(
                "objective must have one of dev_uar, dev_war, dev_wf1 (the smallest model "
                f"knows nothing), got {list(self.objective)}"
            )
        elif not self.objective[0].startswith("dev_"):
            problems.append(
                "objective must begin with one of dev_uar, dev_war, dev_wf1 (the first says which "
                f"trial is best), got {list(self.objective)}"
            )
        if self.is_pareto and self.scheduler.name != "none":
            problems.append(
                "scheduler.name must be 'none' with several objectives (no trial is worse than "
                f"another before its end), got {self.scheduler.name!r}"
            )
        if self.is_pareto and self.sampler not in PARETO_SAMPLERS:
            problems.append(
                f"sampler must be one of {', '.join(PARETO_SAMPLERS)} with several objectives, "
                f"got {self.sampler!r}"
            )
        return problems

    def _design_problems(self) -> list[str]:
        problems = []
        for name in ("folds", "seeds"):
            values = getattr(self, name)
            if isinstance(values, tuple) and not values:
                problems.append(f"{name} must have at least one value, got none")
            if isinstance(values, tuple) and len(set(values)) < len(values):
                problems.append(f"{name} must not repeat a value, got {list(values)}")
        is_by_fold = self.scheduler.name != "none" and self.scheduler.fidelity == "fold"
        if is_by_fold and self.folds != "all" and len(self.folds) < 2:
            problems.append(
                "folds must be all or at least two when scheduler.fidelity is 'fold', "
                f"got {list(self.folds)}"
            )
        return problems
