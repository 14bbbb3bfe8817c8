"""From an ablation's file to its arms, each a legal experiment."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serkd.config import Experiment
from serkd.errors import InputError, refuse
from serkd.recipe import build_experiment
from serkd.search.ablation import (
    Ablation,
    Settings,
    make_smoke,
    overlay_problems,
    read_ablation,
)
from serkd.search.controls import CONTROLS
from serkd.search.drafts import DESIGNS, MAX_ARMS, REFERENCE, Draft
from serkd.search.identity import experiment_key
from serkd.section import Section, validate
from serkd.stages.key import get_dotted
from serkd.yaml12 import read_yaml


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared: settings laid over the base.

    `levels` says what every component or factor is in it. `also` are the names of arms that turned
    out to be the same experiment.
    """

    name: str
    settings: Settings
    levels: Mapping[str, str]
    experiment: Experiment
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A file, its base and its arms, the reference first.

    `arms` are those that are asked for now, of the file's `all_arms`; `is_part` says that only some
    arms or other seeds are.
    """

    name: str
    file: Ablation
    base: Experiment
    arms: tuple[Arm, ...]
    all_arms: tuple[Arm, ...]
    is_part: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a file: some of its arms beside the reference, and its seeds or others."""

    arms: tuple[str, ...] = ()  # none named = all
    seeds: tuple[int, ...] = ()  # none named = the file's


ALL = Wanted()


def read_study(
    path: Path,
    values: Mapping[str, Any],
    find_best: Callable[[Path], Experiment],
    *,
    is_smoke: bool = False,
    wanted: Wanted = ALL,
) -> Study:
    """Read an ablation with dotted `values` laid over its base; `find_best` reads a sweep's best.

    What an arm sets itself is the arm's, whatever `values` say: it is what its name promises.

    Raises:
        InputError: an illegal file, settings that are illegal together in any arm, or a wanted arm
            that the file does not have.
    """
    file = read_ablation(path)
    small = file.smoke.set if is_smoke else {}
    file = make_smoke(file) if is_smoke else file
    if "seed" in {**file.set, **small, **values}:
        raise InputError(f"{path}: seed must not be set, give seeds: every arm is run with each")
    data = _read_base(file, path.parent, find_best)
    base = build_experiment(data, {**file.set, **small, **values}, origin=str(path))
    name = f"{path.stem}-smoke" if is_smoke else path.stem
    if wanted.seeds:
        data = {**file.model_dump(mode="json"), "seeds": list(wanted.seeds)}
        file = validate(Ablation, data, "--seeds")
    fixed = {**small, **values} if is_smoke else {}
    study = build_study(name, file, base, fixed, origin=str(path))
    chosen = tuple(_choose_arms(study.arms, wanted.arms))
    return replace(study, arms=chosen, is_part=wanted != ALL)


def _choose_arms(arms: Sequence[Arm], wanted: Sequence[str]) -> Iterator[Arm]:
    """The reference and those that are wanted, in the file's order."""
    known = [name for arm in arms for name in (arm.name, *arm.also)]
    if unknown := [name for name in wanted if name not in known]:
        allowed = ", ".join(map(repr, known))
        raise InputError(f"--arm must be of {allowed}, got {', '.join(map(repr, unknown))}")
    for number, arm in enumerate(arms):
        if not wanted or not number or {arm.name, *arm.also} & {*wanted}:
            yield arm


def build_study(
    name: str, file: Ablation, base: Experiment, fixed: Mapping[str, Any], *, origin: str
) -> Study:
    """The arms of a file on its base; `fixed` settings, of a smoke run, win over those of arms.

    Raises:
        InputError: settings that are illegal together in any arm.
    """
    refuse([f"{origin}: {problem}" for problem in overlay_problems(file)])
    drafts = DESIGNS[file.design](file)
    if len(drafts) > MAX_ARMS:
        raise InputError(f"{origin}: must have at most {MAX_ARMS} arms, {file.design} makes more")
    arms, problems = _build_arms(base, drafts, fixed)
    if file.controls and not problems:
        reference = _reference_first(file, arms, origin)[0]
        controls = _draft_controls(reference)
        more, problems = _build_arms(base, controls, {})
        searched = set(file.retune.space if file.retune else ())
        problems += [
            f"retune.space and {draft.name} must not both set {key}"
            for draft in controls
            for key in sorted(searched & {*draft.settings})
        ]
        arms += [_leave_out_same(arm, base) for arm in more]
    count = Counter(arm.name for arm in arms)
    problems += [
        f"arms must have different names, {name!r} is there {number} times"
        for name, number in count.items()
        if number > 1
    ]
    refuse([f"{origin}: {problem}" for problem in (*problems, *_retune_problems(file, arms))])
    different = tuple(_collapse(_reference_first(file, arms, origin), file.model))
    if len(different) == 1:
        names = ", ".join(map(repr, (different[0].name, *different[0].also)))
        raise InputError(f"{origin}: must have two arms that differ, {names} are one experiment")
    return Study(name, file, base, different, different)


def _read_base(
    file: Ablation, folder: Path, find_best: Callable[[Path], Experiment]
) -> dict[str, Any]:
    if file.best_of is not None:
        return find_best(folder / file.best_of).model_dump(mode="json")
    assert file.base is not None
    return read_yaml(folder / file.base)


def _build_arms(
    base: Experiment, drafts: list[Draft], fixed: Mapping[str, Any]
) -> tuple[list[Arm], list[str]]:
    """What is `fixed` for all arms wins over their own settings."""
    data, arms, problems = base.model_dump(mode="json"), [], []
    for draft in drafts:
        settings = {key: value for key, value in draft.settings.items() if key not in fixed}
        try:
            built = build_experiment(data, settings, origin=f"arm {draft.name!r}")
        except InputError as error:
            problems.append(str(error))
            continue
        problems += [
            f"arm {draft.name!r}: must set single settings, {key} is a section"
            for key in settings
            if isinstance(get_dotted(built, key), Section)
        ]
        arms.append(Arm(draft.name, settings, draft.levels, built))
    return arms, problems


def _draft_controls(reference: Arm) -> list[Draft]:
    """Those of ``serkd run --with-controls``, of the arm that the others are compared with."""
    return [
        Draft(f"control {name}", {**reference.settings, **change(reference.experiment)})
        for name, change in CONTROLS.items()
    ]


def _leave_out_same(arm: Arm, base: Experiment) -> Arm:
    """Without settings that the base has too: a control fixes all that it means, needed or not."""
    changed = {key: value for key, value in arm.settings.items() if get_dotted(base, key) != value}
    return replace(arm, settings=changed)


def _retune_problems(file: Ablation, arms: list[Arm]) -> Iterator[str]:
    """Every value that tuning may try must be legal in every arm."""
    if file.retune is None:
        return
    for arm in arms:
        data = arm.experiment.model_dump(mode="json")
        for key, dimension in file.retune.space.items():
            for value in dimension.examples():
                try:
                    build_experiment(data, {key: value}, origin=f"retune in arm {arm.name!r}")
                except InputError as error:
                    yield str(error)


def _reference_first(file: Ablation, arms: list[Arm], origin: str) -> list[Arm]:
    """The arm that the others are compared with leads."""
    wanted = file.reference or REFERENCE
    chosen = [arm for arm in arms if arm.name == wanted]
    if not chosen:
        names = ", ".join(arm.name for arm in arms)
        raise InputError(f"{origin}: reference must be one of {names}, got {wanted!r}")
    return [*chosen, *(arm for arm in arms if arm is not chosen[0])]


def _collapse(arms: list[Arm], model: str) -> Iterator[Arm]:
    """One arm for each experiment; the first one's name stays, the others' are in `also`."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(experiment_key(arm.experiment, model), []).append(arm)
    for first, *others in groups.values():
        levels: dict[str, str] = {}
        for arm in (*reversed(others), first):
            levels |= arm.levels
        also = tuple(arm.name for arm in others)
        yield replace(first, levels=levels, also=also)
