"""Content keys: what a stage's result depends on, and nothing else."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from serkd.config import Experiment
from serkd.config.active import find_inactive

_HEX_DIGITS = 32


def used_values(experiment: Experiment, uses: Sequence[str]) -> dict[str, Any]:
    """The leaves of the used sections, by dotted path; without those that have no effect."""
    found: dict[str, Any] = {}
    for dotted in uses:
        _flatten(dotted, get_dotted(experiment, dotted), found)
    inactive = find_inactive(experiment, among=found)
    return {dotted: value for dotted, value in found.items() if dotted not in inactive}


def _flatten(dotted: str, value: object, into: dict[str, Any]) -> None:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            _flatten(f"{dotted}.{name}", getattr(value, name), into)
    else:
        into[dotted] = list(value) if isinstance(value, tuple) else value


def compute_key(fields: Mapping[str, Any]) -> str:
    """A digest of the fields' canonical JSON."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_HEX_DIGITS]


def get_dotted(section: BaseModel, dotted: str) -> Any:  # noqa: ANN401  a leaf or a section
    """The value or section of an experiment at a dotted path."""
    value: Any = section
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def list_leaves(section: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted paths of all settings of a section's model."""
    found = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += list_leaves(kind, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found
