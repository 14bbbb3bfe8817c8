"""A table of a report as plain text, and how numbers are written in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """A table: the first `num_words` columns are words, the others numbers."""

    name: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_words: int = 1
    notes: tuple[str, ...] = ()


def percent(value: float | None) -> str:
    """A share as percent, with one decimal."""
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None, form: str) -> str:
    """By a format, or a dash."""
    return "–" if value is None else format(value, form)


def seconds(value: float | None) -> str:
    """With its unit, or a dash."""
    if value is None:
        return "–"
    return f"{value / 3600:.2f} h" if value >= 3600 else f"{value:.1f} s"
