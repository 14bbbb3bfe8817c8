"""Commands of ablations: run one, report it, run a row again."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import (
    AblationArgument,
    ArmsOption,
    JsonOption,
    QuietOption,
    SeedsOption,
    SetOption,
    StorageOption,
    open_console,
    read_wanted,
    watch,
)


def ablate(
    file: Annotated[Path, typer.Argument(help="ablation, see search_spaces/ablation_*.yaml")],
    overrides: SetOption = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="small, on the built-in corpus: does the file work?")
    ] = False,
    arms: ArmsOption = None,
    seeds: SeedsOption = None,
    storage: StorageOption = Path("serkd-storage"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare arms over folds and seeds, and report; run it again to go on where it stopped."""
    from serkd.recipe import read_overrides
    from serkd.report.ablate import start_ablation
    from serkd.report.answer_terminal import print_answer

    values, wanted = read_overrides(overrides or []), read_wanted(arms, seeds)
    console = open_console()
    with watch(console, quiet or as_json) as observer:
        report, folder = start_ablation(
            file, values, storage, observer, is_smoke=smoke, wanted=wanted
        )
    print_answer(console, report, folder, as_json=as_json)


def report(
    folder: AblationArgument,
    as_json: JsonOption = False,
) -> None:
    """Write the report of what is done by now: HTML, Markdown, LaTeX, PNG and PDF."""
    from serkd.report.ablate import refresh_report
    from serkd.report.answer_terminal import print_answer

    print_answer(open_console(), refresh_report(folder), folder, as_json=as_json)


def reproduce(
    file: Annotated[Path, typer.Argument(help="report.json")],
    row: Annotated[int, typer.Option(help="of the report's first table; 0 = the reference")],
    fold: Annotated[str | None, typer.Option(help="one fold only")] = None,
    seed: Annotated[int | None, typer.Option(help="one seed only")] = None,
    storage: Annotated[Path, typer.Option(help="computed anew in here: an empty folder")] = Path(
        "serkd-reproduced"
    ),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run one row of a report again from nothing and compare it, cell by cell."""
    from serkd.report.answer_terminal import print_reproduced
    from serkd.report.reproduce import reproduce_row

    console = open_console()
    with watch(console, quiet or as_json) as observer:
        found = reproduce_row(file, row, fold, seed, storage, observer)
    print_reproduced(console, found, as_json=as_json)
    if not found["is_equal"]:
        raise typer.Exit(1)
