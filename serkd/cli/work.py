"""Commands that compute, or show what they would."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import (
    JsonOption,
    QuietOption,
    ResultsArgument,
    SetOption,
    StorageOption,
    open_console,
    watch,
)
from serkd.errors import InputError
from serkd.files import write_json
from serkd.writable import check_output


def config(
    schema: Annotated[bool, typer.Option("--schema", help="JSON schema, for editors")] = False,
    recipe: Annotated[Path | None, typer.Argument(help="recipe to resolve")] = None,
    overrides: SetOption = None,
) -> None:
    """Print a recipe with every default filled in, or the schema of all recipes."""
    import json

    from serkd.config import Experiment
    from serkd.recipe import read_experiment

    if schema:
        print(json.dumps(Experiment.model_json_schema(), indent=2))
        return
    experiment = read_experiment(recipe, overrides or [])
    print(json.dumps(experiment.model_dump(mode="json"), indent=2))


def folds(
    recipe: Annotated[Path, typer.Argument(help="experiment, see jobs/recipes/")],
    overrides: SetOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="write ids and hashes (.json)")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a recipe divides its corpus: utterances, speakers, classes and hours."""
    import json

    from serkd.corpora.folds import hash_folds
    from serkd.corpora.protocols import build_folds, describe_labels, read_corpus
    from serkd.recipe import read_experiment
    from serkd.report.corpus import describe_parts, folds_table
    from serkd.report.run import describe_folds

    if out is not None:
        check_output("--out", out, recipe)
    experiment = read_experiment(recipe, overrides or [])
    manifest = read_corpus(experiment.corpus, experiment.protocol)
    found = build_folds(experiment.protocol, manifest)
    rows, digest = describe_parts(manifest, found), hash_folds(found)
    if experiment.protocol.name == "cross_corpus":
        for line in describe_labels(experiment.corpus, experiment.protocol):
            print(f"note: {line}", file=sys.stderr)
    if out is not None:
        write_json(out, describe_folds(found))
    if as_json:
        print(json.dumps({"protocol": experiment.protocol.name, "hash": digest, "parts": rows}))
        return
    title = f"{experiment.protocol.name}: {len(found)} fold(s), hash {digest[:12]}"
    open_console().print(folds_table(rows, title))


def test(
    folder: ResultsArgument,
    trial: Annotated[int | None, typer.Option(help="of a sweep; default the best on dev")] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arm", help="of an ablation, may be repeated; default the best on dev"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Open the sealed test split for a chosen run, trial or arm; every look is logged.

    Arms of an ablation are evaluated beside its reference, and its report is written anew.
    """
    from serkd.report.sealed import open_test
    from serkd.report.sealed_arms import is_ablation_folder, open_arms
    from serkd.report.terminal import print_test

    is_ablation = is_ablation_folder(folder)
    if is_ablation and trial is not None:
        raise InputError(f"--trial must be left out: {folder} is an ablation, choose by --arm")
    if arms and not is_ablation:
        raise InputError(f"--arm must be left out: {folder} is no ablation")
    if is_ablation:
        from serkd.report.answer_terminal import print_tested

        print_tested(open_console(), open_arms(folder, arms or []), folder, as_json=as_json)
        return
    print_test(open_console(), open_test(folder, trial), folder, as_json=as_json)


def run(
    recipe: Annotated[Path, typer.Argument(help="experiment, see jobs/recipes/")],
    overrides: SetOption = None,
    fold: Annotated[str, typer.Option(help="a fold's name, or all")] = "1",
    with_controls: Annotated[
        bool,
        typer.Option(
            "--with-controls",
            help="and the same student with cross-entropy only, label smoothing, plain KD, a "
            "random teacher, and for twice as long; then compare them",
        ),
    ] = False,
    storage: StorageOption = Path("serkd-storage"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run all stages of an experiment: what is stored already is read, the rest computed."""
    if with_controls:
        _run_with_controls(recipe, overrides, fold, storage, quiet, as_json)
    else:
        _run(recipe, overrides, fold, storage, quiet, as_json, ("teacher", "student"))


def _run_with_controls(
    recipe: Path,
    overrides: list[str] | None,
    fold: str,
    storage: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    import json

    from serkd.recipe import read_experiment

    experiment = read_experiment(recipe, overrides or [])
    from serkd.report.controls import print_controls, run_with_controls
    from serkd.report.terminal import print_run

    console = open_console()
    with watch(console, quiet or as_json) as observer:
        results, controls, folder = run_with_controls(
            experiment, fold, storage, recipe.stem, observer
        )
    if as_json:
        print(json.dumps({**results, "controls": controls}))
    else:
        print_run(console, results, folder, as_json=False)
        print_controls(console, controls, folder)
    if any(control["failed"] for control in controls["controls"]):
        raise typer.Exit(1)


def teacher(
    recipe: Annotated[Path, typer.Argument(help="experiment, see jobs/recipes/")],
    overrides: SetOption = None,
    fold: Annotated[str, typer.Option(help="a fold's name, or all")] = "1",
    storage: StorageOption = Path("serkd-storage"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run an experiment up to its teacher, without log-mel and student."""
    _run(recipe, overrides, fold, storage, quiet, as_json, ("teacher",))


def _run(
    recipe: Path,
    overrides: list[str] | None,
    fold: str,
    storage: Path,
    quiet: bool,
    as_json: bool,
    models: tuple[str, ...],
) -> None:
    from serkd.recipe import read_experiment

    experiment = read_experiment(recipe, overrides or [])
    from serkd.report.run import run_experiment
    from serkd.report.terminal import print_run

    console = open_console()
    # apart from runs with a student: neither replaces the other's results
    name = recipe.stem if "student" in models else f"{recipe.stem}-teacher"
    with watch(console, quiet or as_json) as observer:
        results, folder = run_experiment(experiment, fold, storage, name, observer, models)
    print_run(console, results, folder, as_json=as_json)


def quickstart(
    storage: StorageOption = Path("serkd-quickstart"), quiet: QuietOption = False
) -> None:
    """Everything once on the built-in corpus: synthesise, run, search, show."""
    from serkd.report.quickstart import run_quickstart

    console = open_console()
    with watch(console, quiet) as observer:
        run_quickstart(storage, console, observer)
