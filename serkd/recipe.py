"""An experiment from YAML plus ``--set`` overrides."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.section import set_dotted, validate
from serkd.yaml12 import parse_yaml, read_yaml


def read_experiment(path: Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment and apply ``dotted.key=value`` overrides; no path = the defaults."""
    origin = "defaults" if path is None else str(path)
    return build_experiment(
        {} if path is None else read_yaml(path), read_overrides(overrides), origin=origin
    )


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
