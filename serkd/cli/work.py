"""Commands that compute: run, sweep, quickstart; and config, which shows what they would."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import (
    JsonOption,
    QuietOption,
    SetOption,
    StorageOption,
    open_console,
    watch,
)


def config(
    schema: Annotated[bool, typer.Option("--schema", help="JSON schema, for editors")] = False,
    recipe: Annotated[Path | None, typer.Argument(help="recipe to resolve")] = None,
    overrides: SetOption = None,
) -> None:
    """Print a recipe with every default filled in, or the schema of all recipes."""
    import json

    from serkd.config import Experiment, read_experiment

    if schema:
        print(json.dumps(Experiment.model_json_schema(), indent=2))
        return
    experiment = read_experiment(recipe, overrides or [])
    print(json.dumps(experiment.model_dump(mode="json"), indent=2))


def run(
    recipe: Annotated[Path, typer.Argument(help="experiment, see jobs/recipes/")],
    overrides: SetOption = None,
    fold: Annotated[str, typer.Option(help="a fold's name, or all")] = "1",
    storage: StorageOption = Path("serkd-storage"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run all stages of an experiment: what is stored already is read, the rest computed."""
    from serkd.config import read_experiment

    experiment = read_experiment(recipe, overrides or [])
    from serkd.report.run import run_experiment
    from serkd.report.terminal import print_run

    console = open_console()
    with watch(console, quiet or as_json) as observer:
        results, folder = run_experiment(experiment, fold, storage, recipe.stem, observer)
    print_run(console, results, folder, as_json=as_json)


def sweep(
    space: Annotated[Path, typer.Argument(help="search space, see search_spaces/")],
    overrides: SetOption = None,
    trials: Annotated[int | None, typer.Option(min=1, help="instead of the file's")] = None,
    storage: StorageOption = Path("serkd-storage"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search with Ray Tune and Optuna; run it again to go on where it stopped."""
    from serkd.config import read_overrides
    from serkd.report.sweep import start_sweep
    from serkd.report.terminal import print_sweep

    values = read_overrides(overrides or [])
    console = open_console()
    with watch(console, quiet or as_json) as observer:
        done = start_sweep(space, values, trials, storage, observer)
    print_sweep(console, done, as_json=as_json)


def quickstart(
    storage: StorageOption = Path("serkd-quickstart"), quiet: QuietOption = False
) -> None:
    """Everything once on the built-in corpus: synthesise, run, search, show."""
    from serkd.report.quickstart import run_quickstart

    console = open_console()
    with watch(console, quiet) as observer:
        run_quickstart(storage, console, observer)
