"""What a sweep found."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import JsonOption, SweepArgument, open_console
from serkd.errors import InputError
from serkd.writable import check_output


def importance(
    folder: SweepArgument,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="write the best trial as a recipe (.yaml)")
    ] = None,
    trial: Annotated[int | None, typer.Option(help="another trial for --recipe")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which settings of a sweep are best, which mattered, and where it hit an edge."""
    from serkd.report.answers import find_answers, print_answers, write_recipe

    if recipe is not None:
        check_output("--recipe", recipe)
    elif trial is not None:
        raise InputError("--trial must go with --recipe, which it is written to")
    found = find_answers(folder)
    print_answers(open_console(), found, as_json=as_json)
    if recipe is not None:
        write_recipe(folder, trial, recipe)
        typer.echo(f"wrote {recipe}: serkd run {recipe}", err=as_json)
