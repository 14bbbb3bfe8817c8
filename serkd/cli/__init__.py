"""The command line: parse, call, print."""

import logging
import sys
import traceback

import typer

from serkd.cli import data, frames, sweep, work
from serkd.cli.ablate import ablate, report, reproduce
from serkd.cli.answers import importance
from serkd.cli.compare import compare
from serkd.cli.curriculum import curriculum
from serkd.cli.export import export
from serkd.cli.plan import plan
from serkd.cli.prepare import prepare
from serkd.cli.stages import stages
from serkd.cli.submit import submit
from serkd.errors import InputError, SweepError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Search for small models that recognise emotion in speech: teacher, pseudo-labels, "
    "distillation.",
)
app.add_typer(prepare, name="prepare")
for command in (work.config, work.folds, work.run, work.teacher, work.test):
    app.command()(command)
app.command()(ablate)
app.command()(report)
app.command()(reproduce)
app.command()(submit)
app.command()(sweep.sweep)
app.command()(sweep.status)
app.command()(sweep.why)
app.command()(sweep.logs)
app.command()(sweep.tensorboard)
app.command()(compare)
app.command()(plan)
app.command()(importance)
app.command()(work.quickstart)
app.command()(export)
app.command()(data.doctor)
app.command()(frames.features)
app.command()(frames.cluster)
app.add_typer(frames.units, name="units")
app.add_typer(curriculum, name="curriculum")
app.add_typer(stages, name="stages")


def main(*first: str) -> None:
    """Run a command; exit 0 done, 1 the work failed, 2 the user's input is wrong.

    `first` are words before those of the command line: an entry point is one command.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app([*first, *sys.argv[1:]])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SweepError as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if (cause := _find_cause(error, InputError)) is not None:
            print(f"error: {cause}", file=sys.stderr)
            sys.exit(2)
        if (cause := _find_cause(error, FloatingPointError)) is not None:
            print(f"failed: {cause}", file=sys.stderr)  # settings did it, and it says which may
            sys.exit(1)
        traceback.print_exc()
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _find_cause(error: BaseException | None, kind: type[Exception]) -> Exception | None:
    """What a task or actor raised arrives wrapped by Ray."""
    while error is not None:
        if isinstance(error, kind):
            return error
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None
