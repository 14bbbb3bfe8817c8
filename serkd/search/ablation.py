"""An ablation: a strict YAML file that says what is compared, over which folds and seeds."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from serkd.config import PositiveInt, Seed
from serkd.errors import InputError
from serkd.recipe import require_kind
from serkd.search.dimension import Dimension
from serkd.search.space import FoldNames, Resources
from serkd.section import Section, validate
from serkd.yaml12 import read_yaml

Settings = dict[str, Any]  # dotted keys and values
MAX_NAME = 80  # of an arm: tables and figures have to show it


class Component(Section):
    """A part of the method: what switches it on, and what switches it off."""

    on: Settings = Field(default_factory=dict, description="dotted keys where the part is there")
    off: Settings = Field(default_factory=dict, description="dotted keys where it is left out")


class Retune(Section):
    """Nuisance keys, tuned alone in every arm with the same number of trials.

    The same settings are tried in every arm: its own first, then points of a low-discrepancy
    sequence. The best mean over `folds` is taken for all of the arm's folds and seeds.
    """

    trials: PositiveInt = Field(8, description="in each arm; 1 = its own settings only")
    space: dict[str, Dimension] = Field(min_length=1)
    folds: tuple[str, ...] | None = Field(None, min_length=1, description="null = the first")
    seed: Seed = Field(1_000, description="of the trials, not of the arms")

    @model_validator(mode="after")
    def _unconditional(self) -> "Retune":
        if conditional := [name for name, dimension in self.space.items() if dimension.when]:
            raise ValueError(f"retuned keys must have no `when`, got one for {conditional}")
        return self


class Smoke(Section):
    """What `--smoke` changes, so that the file is tried in seconds on the synthetic corpus."""

    base: str = "../jobs/recipes/quickstart.yaml"
    set: Settings = Field(default_factory=dict, description="laid over every arm")
    folds: tuple[str, ...] = Field(("1", "2"), min_length=1)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    trials: PositiveInt = Field(1, description="of retune")


class Ablation(Section):
    question: str = Field(min_length=1, description="what the report answers")
    base: str | None = Field(None, description="a recipe, relative to this file")
    best_of: str | None = Field(
        None, description="instead of base: the folder of a sweep, whose best trial is the base"
    )
    set: Settings = Field(default_factory=dict, description="dotted keys laid over the base")
    design: Literal["loco", "add_one", "oat", "factorial", "list"]
    components: dict[str, Component] = Field(
        default_factory=dict, description="loco and add_one only"
    )
    factors: dict[str, tuple[Any, ...] | dict[str, Settings]] = Field(
        default_factory=dict,
        description="oat and factorial only: a dotted key's values, or named groups of settings",
    )
    arms: dict[str, Settings] = Field(default_factory=dict, description="list only")
    controls: bool = Field(
        False,
        description="and the controls of the reference, as arms `control cross_entropy`, "
        "`control label_smoothing`, `control plain_kd`, `control random_teacher` and `control "
        "twice_as_long`; one that is an arm already is named with it",
    )
    reference: str | None = Field(
        None, description="list and factorial: the arm to compare with; null = the base itself"
    )
    folds: FoldNames = Field("all", min_length=1)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    model: Literal["student", "teacher"] = "student"
    metric: Literal["uar", "war", "wf1"] = "uar"
    margin: float = Field(0.01, gt=0.0, lt=1.0, description="differences below are of no interest")
    retune: Retune | None = None
    resources: Resources = Resources()
    smoke: Smoke = Smoke()

    @field_validator("factors", mode="before")
    @classmethod
    def _have_levels(cls, factors: object) -> object:
        if not isinstance(factors, dict):
            return factors
        found: dict[str, object] = {}
        for name, levels in factors.items():
            is_named = isinstance(levels, dict) and all(
                isinstance(settings, dict) for settings in levels.values()
            )
            if not is_named and not isinstance(levels, list | tuple):
                raise ValueError(
                    f"{name}: must be a list of a key's values, or levels with the settings of "
                    f"each, got {levels!r}"
                )
            found[name] = levels if is_named else tuple(levels)
        return found

    @model_validator(mode="after")
    def _sections_agree(self) -> "Ablation":
        if problems := [*_base_problems(self), *_design_problems(self), *_list_problems(self)]:
            raise ValueError("; ".join(problems))
        return self


_NEEDS = {
    "loco": "components",
    "add_one": "components",
    "oat": "factors",
    "factorial": "factors",
    "list": "arms",
}


def _base_problems(file: Ablation) -> Iterator[str]:
    if (file.base is None) == (file.best_of is None):
        yield "must have exactly one of base and best_of"
    if file.controls and file.model != "student":
        yield f"controls must be false unless model is 'student', got true with {file.model!r}"
    if file.retune is not None and file.retune.seed in file.seeds:
        yield (
            f"retune.seed must be none of seeds (what is tuned on a seed is not tested on it), "
            f"got {file.retune.seed}"
        )


def _design_problems(file: Ablation) -> Iterator[str]:
    needed = _NEEDS[file.design]
    for name in sorted({*_NEEDS.values()}):
        if name == needed and not getattr(file, name):
            yield f"{name} must not be empty when design is {file.design!r}"
        if name != needed and getattr(file, name):
            yield f"{name} must be left out when design is {file.design!r}, which reads {needed}"
    if file.reference is not None and file.design not in ("list", "factorial"):
        yield f"reference must be left out when design is {file.design!r}: it is the base"
    for name, component in file.components.items():
        if not component.on and not component.off:
            yield f"components.{name}: must say what is on or what is off"
    for name, levels in file.factors.items():
        if not levels:
            yield f"factors.{name}: must have a value"


def _list_problems(file: Ablation) -> Iterator[str]:
    for what in ("seeds", "folds"):
        values = getattr(file, what)
        if values != "all" and len(set(values)) < len(values):
            yield f"{what} must not repeat a value, got {list(values)}"
    for name in (*file.components, *file.factors, *file.arms):
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            yield f"names must be printable, of 1 to {MAX_NAME} characters, got {name!r}"


def read_ablation(path: Path) -> Ablation:
    """Read the file alone; `serkd.search.designs` makes arms of it.

    Raises:
        InputError: not YAML, unknown keys, or sections that do not go together.
    """
    data = read_yaml(path)
    require_kind(data, "an ablation", path)
    return validate(Ablation, data, str(path))


def is_ablation(path: Path) -> bool:
    """Whether a file is an ablation and not a search space."""
    return "design" in read_yaml(path)


def make_smoke(file: Ablation) -> Ablation:
    """The file at the size that `--smoke` runs."""
    small = file.smoke
    retune = file.retune
    if retune is not None:
        retune = retune.model_copy(update={"trials": small.trials, "folds": None})
    return file.model_copy(
        update={
            "base": small.base,
            "best_of": None,
            "folds": small.folds,
            "seeds": small.seeds,
            "retune": retune,
        }
    )


def overlay_problems(file: Ablation) -> Iterator[str]:
    """Keys that two parts of a file set, or that no arm may change."""
    groups: dict[str, list[Settings]] = {
        **{f"components.{n}": [c.on, c.off] for n, c in file.components.items()},
        **{f"factors.{n}": _level_settings(n, levels) for n, levels in file.factors.items()},
        **{f"arms.{n}": [settings] for n, settings in file.arms.items()},
        "retune.space": [dict.fromkeys(file.retune.space)] if file.retune else [],
    }
    keys = {name: {key for one in group for key in one} for name, group in groups.items()}
    for name, own in keys.items():
        for key in sorted(own):
            if name == "retune.space" and key.startswith("train."):
                yield f"{name}: must not set {key}, which changes no result"
            if key == "seed" or key.startswith(("protocol.", "corpus.manifest", "corpus.more_")):
                yield f"{name}: must not set {key}, all arms have the same folds and seeds"
    yield from _overlaps(keys, is_list=file.design == "list")


def _overlaps(keys: Mapping[str, set[str]], *, is_list: bool) -> Iterator[str]:
    names = list(keys)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if is_list and second != "retune.space":
                continue  # the arms of a list do not meet in one experiment
            for key in sorted(keys[first] & keys[second]):
                yield f"{first} and {second}: must not both set {key}"


def _level_settings(name: str, levels: tuple[Any, ...] | dict[str, Settings]) -> list[Settings]:
    if isinstance(levels, dict):
        return list(levels.values())
    return [{name: value} for value in levels]


def require_fold_names(file: Ablation, names: list[str]) -> None:
    """Refuse folds that the protocol does not have.

    Raises:
        InputError: names them, and those that there are.
    """
    asked = [] if file.folds == "all" else [*file.folds]
    asked += list(file.retune.folds or ()) if file.retune else []
    if unknown := sorted(set(asked) - set(names)):
        raise InputError(f"folds must be among {', '.join(names)}, got {', '.join(unknown)}")
