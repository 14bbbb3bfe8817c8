"""Commands about what is stored."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import JsonOption, SetOption, StorageOption, open_console

stages = typer.Typer(
    invoke_without_command=True, help="What is stored: list it, clear it, say why it was missed."
)


@stages.callback()
def list_stages(
    context: typer.Context,
    storage: StorageOption = Path("serkd-storage"),
    as_json: JsonOption = False,
) -> None:
    """List stored stages by kind, with sizes and what computing them took."""
    if context.invoked_subcommand is not None:
        return
    from serkd.report.stored_tables import print_stored
    from serkd.stages.inventory import list_stored

    print_stored(open_console(), list_stored(storage), as_json=as_json)


@stages.command()
def gc(
    keep_best: Annotated[
        int, typer.Option(min=1, help="trials of every finished sweep that stay whole")
    ] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it, only say what")] = False,
    storage: StorageOption = Path("serkd-storage"),
    as_json: JsonOption = False,
) -> None:
    """Delete stages that no run, no ablation and no sweep's best trials need."""
    from serkd.report.stored import delete_unneeded, find_unneeded
    from serkd.report.stored_tables import print_unneeded

    found = find_unneeded(storage, keep_best)
    if yes:
        delete_unneeded(storage, found)
    print_unneeded(open_console(), found, is_deleted=yes, as_json=as_json)


@stages.command("why-miss")
def why_miss(
    recipe: Annotated[Path, typer.Argument(help="experiment, see jobs/recipes/")],
    overrides: SetOption = None,
    fold: Annotated[str, typer.Option(help="a fold's name, or all")] = "1",
    storage: StorageOption = Path("serkd-storage"),
    as_json: JsonOption = False,
) -> None:
    """Say which stages a recipe would compute, and how each differs from the nearest stored one."""
    from serkd.recipe import read_experiment
    from serkd.report.stored import explain_misses
    from serkd.report.stored_tables import print_misses

    experiment = read_experiment(recipe, overrides or [])
    found = explain_misses(experiment, fold, storage, ("teacher", "student"))
    print_misses(open_console(), found, as_json=as_json)
