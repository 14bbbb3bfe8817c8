"""Commands that search, and that look at a search."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import (
    JsonOption,
    QuietOption,
    SetOption,
    SmokeOption,
    StorageOption,
    TrialsOption,
    open_console,
    watch,
)

SweepArgument = Annotated[Path, typer.Argument(help="a sweep's name, its folder or URI")]
TrialArgument = Annotated[int, typer.Argument(help="the trial's number")]


def sweep(
    space: Annotated[Path, typer.Argument(help="search space, see search_spaces/")],
    overrides: SetOption = None,
    trials: TrialsOption = None,
    smoke: SmokeOption = False,
    name: Annotated[str | None, typer.Option(help="of the sweep; default the file's")] = None,
    retry: Annotated[str | None, typer.Option(help="failed: run what failed again")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="set aside what the file changes")] = False,
    storage: StorageOption = Path("serkd-storage"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search with Ray Tune and Optuna; run it again to go on where it stopped.

    Ctrl-C lets running trials end at their next checkpoint; a second one stops at once.
    """
    from serkd.errors import InputError
    from serkd.recipe import read_overrides
    from serkd.report.sweep import start_sweep
    from serkd.report.terminal import print_sweep

    if retry not in (None, "failed"):
        raise InputError(f"--retry must be failed, got {retry!r}")
    if name is not None and (not name or Path(name).name != name or name.startswith(".")):
        raise InputError(f"--name must be the name of a folder, got {name!r}")
    values = read_overrides(overrides or [])
    console = open_console()
    with watch(console, quiet or as_json) as observer:
        done = start_sweep(
            space,
            values,
            trials,
            storage,
            observer,
            smoke=smoke,
            name=name,
            retry="failed" if retry else None,
            agrees=lambda text: yes or _ask(text),
        )
    print_sweep(console, done, as_json=as_json)
    if done["stopped"] is not None:
        print(f"{done['stopped']}; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(1)


def _ask(text: str) -> bool:
    """Ask at a terminal; elsewhere the answer is no."""
    print(text, file=sys.stderr)
    if not sys.stdin.isatty():
        print("give --yes to agree", file=sys.stderr)
        return False
    return typer.confirm("go on?", err=True)


def status(
    sweep: SweepArgument,
    storage: StorageOption = Path("serkd-storage"),
    as_json: JsonOption = False,
) -> None:
    """How a sweep stands: trials by state, the best, speed, time left, reuse."""
    import json

    from serkd.report.look import open_look
    from serkd.report.terminal import status_table

    look = open_look(sweep, storage)
    if as_json:
        print(json.dumps({"name": look.name, **look.status.as_json()}))
        return
    open_console().print(status_table(look.name, look.status))


def why(
    sweep: SweepArgument,
    trial: TrialArgument,
    storage: StorageOption = Path("serkd-storage"),
) -> None:
    """Why a trial was pruned, failed, waits, or is as good as it is."""
    from serkd.report.look import open_look

    print("\n".join(open_look(sweep, storage).explain(trial)))


def logs(
    sweep: SweepArgument,
    trial: TrialArgument,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="the last ones")] = 50,
    storage: StorageOption = Path("serkd-storage"),
) -> None:
    """The end of what a trial logged and printed, of all its runs."""
    from serkd.report.look import open_look

    print("\n".join(open_look(sweep, storage).read_log(trial, lines)))


def tensorboard(
    sweep: SweepArgument,
    port: Annotated[int, typer.Option(help="0 = any that is free")] = 6006,
    storage: StorageOption = Path("serkd-storage"),
) -> None:
    """Serve a sweep's TensorBoard on this machine only, until Ctrl-C."""
    from serkd.report.look import open_look, serve_tensorboard

    url, wait = serve_tensorboard(open_look(sweep, storage).folder, port)
    print(url, flush=True)
    wait()
