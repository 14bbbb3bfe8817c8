"""An ablation's answer as the terminal shows it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serkd.report.block import Block, Report
from serkd.report.blocks import arms_block
from serkd.report.run_blocks import cost_block, failures_block, test_block

_SHOWN = (1, 2, 3, 4, 6, 11)  # of the main table's columns: what has room in a line


def print_answer(console: Console, report: Report, folder: Path, *, as_json: bool) -> None:
    """The main table, what it took, and where the rest is."""
    if as_json:
        print(json.dumps(report))
        return
    console.print(Text(report["question"], style="bold"))
    if report["is_partial"]:
        console.print(f"partial: {report['num_done']} of {report['num_cells']} cells are done")
    block = arms_block(report)
    console.print(_table(block, _SHOWN))
    failures = failures_block(report)
    if failures.rows:
        console.print(_table(failures, range(len(failures.head))))
    for note in (*block.notes[1:], *cost_block(report).notes):
        console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {folder / 'report' / 'report.html'}", soft_wrap=True, highlight=False)


def print_tested(console: Console, report: Report, folder: Path, *, as_json: bool) -> None:
    """What the opened arms reached on test."""
    if as_json:
        print(json.dumps(report["test"]))
        return
    block = test_block(report)
    console.print(_table(block, range(len(block.head))))
    for note in block.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {folder / 'report' / 'report.html'}", soft_wrap=True, highlight=False)


def _table(block: Block, columns: Any) -> Table:  # noqa: ANN401  numbers of columns
    table = Table(title=block.title, title_justify="left")
    for i in columns:
        justify = "left" if i < block.num_words else "right"
        table.add_column(block.head[i].replace(" [", "\n["), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in block.rows:
        table.add_row(*(Text(row[i]) for i in columns))
    return table


def print_reproduced(console: Console, found: Mapping[str, Any], *, as_json: bool) -> None:
    """Cell by cell, what the report says and what came out now."""
    if as_json:
        print(json.dumps(found))
        return
    table = Table(title=f"row {found['row']}: {found['arm']}", title_justify="left")
    for name in ("fold", "seed", "report", "now", "confusion"):
        table.add_column(name, justify="left" if name == "confusion" else "right")
    for cell in found["cells"]:
        same = "equal" if cell["is_equal"] else "differs"
        values = (f"{100 * cell['report']:.2f}", f"{100 * cell['now']:.2f}")
        table.add_row(cell["fold"], str(cell["seed"]), *values, same)
    console.print(table)
    for note in found["notes"]:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
