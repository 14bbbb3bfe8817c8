"""What the designs of an ablation make of a file: leave one out, add one, one at a time, factorial,
a list."""

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serkd.search.ablation import Ablation, Settings

REFERENCE = "reference"
MAX_ARMS = 1_000


@dataclass(frozen=True)
class Draft:
    """An arm before its settings are known to be legal."""

    name: str
    settings: Settings
    levels: Mapping[str, str] = field(default_factory=dict)


def _switch(file: Ablation, is_on: Callable[[str], bool], name: str) -> Draft:
    settings: Settings = {}
    for part, component in file.components.items():
        settings |= component.on if is_on(part) else component.off
    levels = {part: "on" if is_on(part) else "off" for part in file.components}
    return Draft(name, settings, levels)


def _leave_one_out(file: Ablation) -> list[Draft]:
    """All components, then all but one: n + 1 arms."""
    arms = [_switch(file, lambda part: True, REFERENCE)]
    for name in file.components:
        arms.append(_switch(file, lambda part, out=name: part != out, f"without {name}"))  # type: ignore[misc]
    return arms


def _add_one(file: Ablation) -> list[Draft]:
    """No component, then one alone: n + 1 arms."""
    arms = [_switch(file, lambda part: False, REFERENCE)]
    for name in file.components:
        arms.append(_switch(file, lambda part, only=name: part == only, f"with {name}"))  # type: ignore[misc]
    return arms


def _levels(file: Ablation) -> dict[str, dict[str, Settings]]:
    """The levels of every factor: by name, what they set."""
    found: dict[str, dict[str, Settings]] = {}
    for name, levels in file.factors.items():
        if isinstance(levels, dict):
            found[name] = levels
        else:
            found[name] = {say(value): {name: value} for value in levels}
    return found


def say(value: object) -> str:
    """A setting's value as it is written in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _one_at_a_time(file: Ablation) -> list[Draft]:
    """The base, then for every factor each of its levels, all else as in the base."""
    arms = [Draft(REFERENCE, {})]
    for factor, levels in _levels(file).items():
        for level, settings in levels.items():
            arms.append(Draft(f"{factor} = {level}", settings, {factor: level}))
    return arms


def _factorial(file: Ablation) -> list[Draft]:
    """Every combination of levels; the base is one more arm unless it is among them."""
    factors = _levels(file)
    arms = [] if file.reference is not None else [Draft(REFERENCE, {})]
    for chosen in itertools.islice(itertools.product(*factors.values()), MAX_ARMS + 1):
        levels = dict(zip(factors, chosen, strict=True))
        settings: Settings = {}
        for factor, level in levels.items():
            settings |= factors[factor][level]
        name = ", ".join(f"{factor} = {level}" for factor, level in levels.items())
        arms.append(Draft(name, settings, levels))
    return arms


def _list(file: Ablation) -> list[Draft]:
    arms = [] if file.reference is not None else [Draft(REFERENCE, {})]
    return [*arms, *(Draft(name, settings) for name, settings in file.arms.items())]


DESIGNS: dict[str, Callable[[Ablation], list[Draft]]] = {
    "loco": _leave_one_out,
    "add_one": _add_one,
    "oat": _one_at_a_time,
    "factorial": _factorial,
    "list": _list,
}
