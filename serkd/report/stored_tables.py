"""Stored stages, what may go of them, and missed ones, as tables."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from serkd.report.stored import Sweepings
from serkd.stages.inventory import Miss, Stored


def print_stored(console: Console, stored: Sequence[Stored], *, as_json: bool) -> None:
    """By kind."""
    if as_json:
        print(json.dumps([_row(each) for each in stored], indent=2))
    else:
        console.print(_table(stored, "stored"))


def print_unneeded(console: Console, found: Sweepings, *, is_deleted: bool, as_json: bool) -> None:
    """What was deleted, or would be."""
    if as_json:
        rows = [_row(each) for each in found.unneeded]
        facts = {"kept": found.num_kept, "bytes": found.num_bytes, "deleted": is_deleted}
        print(json.dumps({**facts, "unneeded": rows}, indent=2))
        return
    console.print(_table(found.unneeded, "deleted" if is_deleted else "not needed"))
    console.print(f"{found.num_kept} stages stay", highlight=False)
    if not is_deleted and found.unneeded:
        console.print("nothing was deleted: give --yes", highlight=False)


def print_misses(console: Console, found: Sequence[tuple[str, Miss]], *, as_json: bool) -> None:
    """Field by field: what is wanted, and what is stored."""
    if as_json:
        print(json.dumps([{"name": name, **asdict(miss)} for name, miss in found], indent=2))
        return
    lines = [line for name, miss in found for line in _miss_lines(name, miss)]
    for line in lines or ["all of it is stored"]:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _miss_lines(name: str, miss: Miss) -> list[str]:
    if miss.nearest is None:
        return [f"{name}: none is stored"]
    lines = [f"{name}: wanted {miss.key[:8]}, the nearest is {miss.nearest[:8]}"]
    for field, (wanted, there) in miss.differences.items():
        what = "  (see the stage it reads, above)" if field.startswith("inputs.") else ""
        lines.append(f"    {field}: wanted {_short(wanted)}, stored {_short(there)}{what}")
    return lines


def _short(value: object) -> str:
    text = json.dumps(value)
    return f"{text[:9]}…" if isinstance(value, str) and len(value) >= 32 else text


def _row(each: Stored) -> dict[str, object]:
    return {
        "stage": each.stage,
        "key": each.key,
        "bytes": each.num_bytes,
        "seconds": each.seconds,
        "folder": str(each.folder),
    }


def _table(stored: Sequence[Stored], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for header in ("number", "MB", "seconds"):
        table.add_column(header, justify="right")
    for stage in dict.fromkeys(each.stage for each in stored):
        some = [each for each in stored if each.stage == stage]
        _add(table, stage, some)
    table.add_section()
    _add(table, "all", stored)
    return table


def _add(table: Table, name: str, some: Sequence[Stored]) -> None:
    size, seconds = sum(each.num_bytes for each in some), sum(each.seconds for each in some)
    table.add_row(name, f"{len(some):,}", f"{size / 1e6:,.1f}", f"{seconds:,.1f}")
