"""What is stored: stages with their sizes, which of them somebody needs, and why one was missed."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkd.stages.store import StageStore


@dataclass(frozen=True)
class Stored:
    """A published stage, without its artifact."""

    stage: str
    key: str
    folder: Path
    num_bytes: int
    seconds: float
    fields: Mapping[str, Any]

    @property
    def inputs(self) -> list[str]:
        """Keys of what it was made of."""
        return list(self.fields.get("inputs", ()))


def list_stored(storage: Path) -> list[Stored]:
    """All published stages of a storage, by stage and key."""
    return [
        Stored(
            each.info["stage"],
            each.info["key"],
            each.place,
            each.info["bytes"],
            each.info["seconds"],
            each.info["fields"],
        )
        for each in StageStore(storage).list()
    ]


def find_ancestors(stored: Iterable[Stored], keys: Iterable[str]) -> set[str]:
    """`keys` and the keys of all that was used to make them, as far as it is stored."""
    by_key = {each.key: each for each in stored}
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += by_key[key].inputs if key in by_key else []
    return found


def flatten_fields(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Everything that a key is made of, by path: config.student.width, inputs.0, train."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found |= flatten_fields(value, f"{prefix}{name}.")
        elif name == "inputs":
            found |= {f"{prefix}inputs.{i}": key for i, key in enumerate(value)}
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


@dataclass(frozen=True)
class Miss:
    """A wanted stage that is not stored, and in what the nearest stored one is different.

    `differences` has the wanted value and the stored one of every field; None where one has none.
    """

    stage: str
    key: str
    nearest: str | None
    differences: dict[str, tuple[Any, Any]]


def explain_miss(stage: str, key: str, fields: Mapping[str, Any], stored: list[Stored]) -> Miss:
    """Compare a wanted key's fields with those of the stored stage that differs in fewest."""
    wanted = flatten_fields(json.loads(json.dumps(fields)))
    found = [
        (dict(_differences(wanted, flatten_fields(each.fields))), each)
        for each in stored
        if each.stage == stage
    ]
    if not found:
        return Miss(stage, key, None, {})
    differences, nearest = min(found, key=lambda pair: (len(pair[0]), pair[1].key))
    return Miss(stage, key, nearest.key, differences)


def _differences(
    wanted: Mapping[str, Any], stored: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in {**wanted, **stored}:
        pair = (wanted.get(name), stored.get(name))
        if pair[0] != pair[1]:
            yield name, pair
