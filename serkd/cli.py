"""The command line: parse, call, print."""

import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serkd.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Search for small models that recognise emotion in speech: teacher, pseudo-labels, "
    "distillation.",
)
prepare = typer.Typer(no_args_is_help=True, help="Turn a corpus on disk into a manifest.")
app.add_typer(prepare, name="prepare")


class OnBad(StrEnum):
    """What to do with audio that cannot be used."""

    refuse = "refuse"
    exclude = "exclude"


OutOption = Annotated[Path, typer.Option("--out", help="manifest to write (.parquet)")]
OnBadOption = Annotated[
    OnBad, typer.Option(help="unreadable, empty or too short audio: stop, or leave it out")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="dotted.key=value, may be repeated")
]
StorageOption = Annotated[Path, typer.Option(help="folder for stages, runs and sweeps")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, results only")]
JsonOption = Annotated[bool, typer.Option("--json", help="print results as JSON")]


def main() -> None:
    """Run a command; exit 0 done, 1 the work failed, 2 the user's input is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if (cause := _input_error(error)) is not None:
            print(f"error: {cause}", file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _input_error(error: BaseException | None) -> InputError | None:
    """An `InputError` that a task or actor raised arrives wrapped by Ray."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None


def _watch(console: "Console", quiet: bool) -> "AbstractContextManager[Any]":
    from contextlib import nullcontext

    from serkd.events import Observer
    from serkd.report.terminal import Terminal

    return nullcontext(Observer()) if quiet else Terminal(console)


def _console() -> "Console":
    from rich.console import Console

    # a file or pipe has no width of its own; tables need more than 80 columns
    return Console() if sys.stdout.isatty() else Console(width=120)


def _write_manifest(
    scan: Callable[[Callable[[int, int], None]], list[Any]], out: Path, on_bad: OnBad, quiet: bool
) -> None:
    from serkd.corpora.manifest import build_manifest, write_manifest

    console = _console()
    with _watch(console, quiet) as watch:
        sources = scan(lambda done, total: watch.progress("synthesise", done, total, "files"))
        manifest, bad = build_manifest(
            sources,
            on_bad=on_bad.value,
            progress=lambda done, total: watch.progress("read", done, total, "files"),
        )
    for problem in bad:
        print(f"excluded: {problem}", file=sys.stderr)
    write_manifest(manifest, out)
    hours = sum(u.duration_s for u in manifest.utterances) / 3600
    speakers = len({u.speaker_id for u in manifest.utterances})
    console.print(
        f"{out}: {len(manifest.utterances)} utterances, {speakers} speakers, "
        f"{len(manifest.class_names)} emotions, {hours:.2f} h, {len(bad)} excluded"
    )


@prepare.command("ravdess")
def prepare_ravdess(
    root: Annotated[Path, typer.Argument(help="folder with the clips, WAV or FLAC, any depth")],
    out: OutOption = Path("ravdess.parquet"),
    on_bad: OnBadOption = OnBad.refuse,
    quiet: QuietOption = False,
) -> None:
    """RAVDESS speech."""
    from serkd.corpora.ravdess import scan

    _write_manifest(lambda progress: scan(root), out, on_bad, quiet)


@prepare.command("table")
def prepare_table(
    table: Annotated[Path, typer.Argument(help="CSV, JSONL or Parquet, one utterance a row")],
    out: OutOption = Path("manifest.parquet"),
    column: Annotated[
        list[str] | None, typer.Option(help="ours=theirs, e.g. speaker_id=speaker")
    ] = None,
    audio_root: Annotated[Path | None, typer.Option(help="where relative paths start")] = None,
    on_bad: OnBadOption = OnBad.refuse,
    quiet: QuietOption = False,
) -> None:
    """Your own corpus, from a table."""
    from serkd.corpora.table import scan

    columns = dict(_split_pair("--column", pair) for pair in column or [])
    _write_manifest(lambda progress: scan(table, columns, audio_root), out, on_bad, quiet)


def _split_pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"{option} must look like name=value, got {text!r}")
    return name, value


@prepare.command("synthetic")
def prepare_synthetic(
    folder: Annotated[Path, typer.Argument(help="where the audio is written")],
    out: Annotated[
        Path | None, typer.Option("--out", help="manifest; default FOLDER/manifest.parquet")
    ] = None,
    num_speakers: Annotated[int, typer.Option(min=3)] = 24,
    utterances_per_emotion: Annotated[int, typer.Option(min=1)] = 5,
    seed: int = 0,
    quiet: QuietOption = False,
) -> None:
    """A built-in corpus of synthesised speech, the same for the same seed."""
    from serkd.corpora.synthetic import write_corpus

    _write_manifest(
        lambda progress: write_corpus(
            folder,
            num_speakers=num_speakers,
            utterances_per_emotion=utterances_per_emotion,
            seed=seed,
            progress=progress,
        ),
        out or folder / "manifest.parquet",
        OnBad.refuse,
        quiet,
    )


@app.command()
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


@app.command()
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

    console = _console()
    with _watch(console, quiet or as_json) as watch:
        results, folder = run_experiment(experiment, fold, storage, recipe.stem, watch)
    print_run(console, results, folder, as_json=as_json)


@app.command()
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
    console = _console()
    with _watch(console, quiet or as_json) as watch:
        done = start_sweep(space, values, trials, storage, watch)
    print_sweep(console, done, as_json=as_json)


@app.command()
def quickstart(
    storage: StorageOption = Path("serkd-quickstart"), quiet: QuietOption = False
) -> None:
    """Everything once on the built-in corpus: synthesise, run, search, show."""
    from serkd.report.quickstart import run_quickstart

    console = _console()
    with _watch(console, quiet) as watch:
        run_quickstart(storage, console, watch)


if __name__ == "__main__":
    main()
