"""The command that compares runs."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import JsonOption, open_console
from serkd.files import write_json
from serkd.writable import check_output


def compare(
    reference: Annotated[str, typer.Argument(help="folder of a run; A,B for two seeds of it")],
    others: Annotated[list[str], typer.Argument(help="runs to compare with it, alike")],
    model: Annotated[
        str | None, typer.Option(help="teacher or student; default the student where all have one")
    ] = None,
    split: Annotated[str, typer.Option(help="dev, or test where `serkd test` opened it")] = "dev",
    metric: Annotated[str, typer.Option(help="uar, war or wf1")] = "uar",
    margin: Annotated[float, typer.Option(help="differences below are of no interest")] = 0.01,
    out: Annotated[Path | None, typer.Option("--out", help="write all numbers (.json)")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs with a reference: differences, intervals, paired tests, and a verdict of each.

    A verdict is helps, hurts, equivalent (inside the margin) or undecided; folds and speakers must
    agree on it.
    """
    if out is not None:
        check_output("--out", out)
    from serkd.report.compare import compare_runs
    from serkd.report.compare_tables import print_comparison

    found = compare_runs([reference, *others], model, split, metric, margin)
    if out is not None:
        write_json(out, found)
    print_comparison(open_console(), found, as_json=as_json)
