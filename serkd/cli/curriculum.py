"""Commands about curricula: plot."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import SetOption
from serkd.writable import check_output

curriculum = typer.Typer(no_args_is_help=True, help="What a student's curriculum will do.")


@curriculum.callback()
def _group() -> None:
    """One command alone would stand for the whole group."""


@curriculum.command()
def plot(
    recipe: Annotated[Path | None, typer.Argument(help="experiment, see jobs/recipes/")] = None,
    out: Annotated[Path, typer.Option(help="PNG file")] = Path("curriculum.png"),
    overrides: SetOption = None,
) -> None:
    """Draw share of data, weight of KD, lambda and the temperature's bounds over epochs.

    From the schedules alone: neither corpus nor teacher is needed.
    """
    from serkd.errors import InputError
    from serkd.recipe import read_experiment

    if out.suffix.lower() != ".png":
        raise InputError(f"--out must be a file that ends in .png, got {out}")
    check_output("--out", out, *([] if recipe is None else [recipe]))
    experiment = read_experiment(recipe, overrides or ())

    from serkd.report.curriculum_plots import draw_curriculum
    from serkd.report.plots import save_figure

    title = "curriculum" if recipe is None else f"curriculum of {recipe.name}"
    save_figure(draw_curriculum(experiment, title), out)
    typer.echo(f"wrote {out}")
