"""An experiment from YAML plus ``--set`` overrides."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.section import set_dotted, validate
from serkd.yaml12 import parse_yaml, read_yaml

_COMMANDS = {
    "an ablation": "serkd ablate",
    "a search space": "serkd sweep",
    "a recipe": "serkd run",
}


def require_kind(data: Mapping[str, Any], wanted: str, path: Path) -> None:
    """Refuse a file of another kind before its every key is called unknown.

    Raises:
        InputError: with the command that the file is for.
    """
    found = _find_kind(data)
    if found not in (wanted, None):
        command = _COMMANDS[found]
        raise InputError(f"{path}: must be {wanted}, this is {found}: `{command}`")


def _find_kind(data: Mapping[str, Any]) -> str | None:
    if "design" in data:
        return "an ablation"
    if "space" in data:
        return "a search space"
    return "a recipe" if data and data.keys() <= Experiment.model_fields.keys() else None


def read_experiment(path: Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment and apply ``dotted.key=value`` overrides; no path = the defaults."""
    values = read_overrides(overrides)
    if path is None:
        return build_experiment({}, values, origin="defaults")
    data = read_yaml(path)
    require_kind(data, "a recipe", path)
    return build_experiment(data, values, origin=str(path))


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``dotted.key=value`` texts as dotted keys and parsed values; a later one wins."""
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set must look like dotted.key=value, got {override!r}")
        values[key.strip()] = parse_yaml(text, f"--set {key}")
    return values


def build_experiment(
    data: Mapping[str, Any], values: Mapping[str, Any], *, origin: str = "experiment"
) -> Experiment:
    """Validate nested `data` with dotted `values` laid over it; report every problem at once."""
    merged: dict[str, Any] = copy.deepcopy(dict(data))
    for dotted, value in values.items():
        set_dotted(merged, dotted, value)
    return validate(Experiment, merged, origin)


def read_numbers(option: str, text: str, *, least: int) -> list[int]:
    """What an option lists: "3,6" to [3, 6].

    Raises:
        InputError: not numbers, too small, or one is there twice.
    """
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least or len(set(numbers)) < len(numbers):
        raise InputError(
            f"{option} must be different whole numbers of at least {least}, like 3,6, got {text!r}"
        )
    return numbers
