"""Options that several commands have, and what they watch and print with."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from serkd.search.designs import Wanted


def _open_storage(place: Path) -> Path:
    """Its folder on this machine; here, so that help does not wait for pyarrow."""
    from serkd.storage.mirror import open_storage

    return open_storage(place)


def _open_folder(place: Path) -> Path:
    from serkd.storage.sync import open_folder

    return open_folder(place)


SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="dotted.key=value, may be repeated")
]
StorageOption = Annotated[
    Path,
    typer.Option(
        callback=_open_storage,
        metavar="STORAGE",
        help="folder, s3://bucket/path or gs://bucket/path for stages, runs and sweeps",
    ),
]


def _folder(what: str) -> Any:  # noqa: ANN401  what typer reads of an argument
    return typer.Argument(
        callback=_open_folder, metavar="FOLDER", help=f"of {what}; or its URI in an object store"
    )


RunArgument = Annotated[Path, _folder("a run")]
SweepArgument = Annotated[Path, _folder("a sweep")]
AblationArgument = Annotated[Path, _folder("an ablation")]
ResultsArgument = Annotated[Path, _folder("a run, a sweep or an ablation")]
TrialsOption = Annotated[int | None, typer.Option(min=1, help="instead of the file's")]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="the file's reduced size, on the built-in corpus")
]
ArmsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arm", help="of an ablation, beside its reference; may be repeated; default all"
    ),
]
SeedsOption = Annotated[
    str | None, typer.Option(help="of an ablation, like 0,1,2; default the file's")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, results only")]
JsonOption = Annotated[bool, typer.Option("--json", help="print results as JSON")]


def read_wanted(arms: list[str] | None, seeds: str | None) -> "Wanted":
    """What --arm and --seeds choose of an ablation."""
    from serkd.recipe import read_numbers
    from serkd.search.designs import Wanted

    numbers = [] if seeds is None else read_numbers("--seeds", seeds, least=0)
    return Wanted(tuple(arms or ()), tuple(numbers))


def watch(console: "Console", quiet: bool) -> "AbstractContextManager[Any]":
    """An observer: the terminal, or nobody."""
    from contextlib import nullcontext

    from serkd.events import Observer
    from serkd.report.terminal import Terminal

    return nullcontext(Observer()) if quiet else Terminal(console)


def open_console() -> "Console":
    """Where tables go."""
    from rich.console import Console

    # a file or pipe has no width of its own; tables need more than 80 columns
    return Console() if sys.stdout.isatty() else Console(width=120)
