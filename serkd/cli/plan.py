"""Commands that look ahead of a sweep, and at what is stored."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import (
    JsonOption,
    SetOption,
    SmokeOption,
    StorageOption,
    TrialsOption,
    open_console,
)

OVER_BUDGET = 3


def plan(
    space: Annotated[Path, typer.Argument(help="search space, see search_spaces/")],
    overrides: SetOption = None,
    trials: TrialsOption = None,
    smoke: SmokeOption = False,
    storage: StorageOption = Path("serkd-storage"),
    as_json: JsonOption = False,
) -> None:
    """Show what a sweep or an ablation would run and share, and what is odd; exit 3 over budget."""
    from serkd.errors import InputError
    from serkd.recipe import read_overrides
    from serkd.report.ablation_plan import plan_ablation, print_ablation_plan
    from serkd.report.plan import make_plan, print_plan
    from serkd.search.ablation import is_ablation

    if is_ablation(space):
        if trials is not None:
            raise InputError(f"--trials must be left out: {space} is an ablation")
        values = read_overrides(overrides or [])
        found = plan_ablation(space, values, storage, is_smoke=smoke)
        print_ablation_plan(open_console(), found, as_json=as_json)
        return
    made = make_plan(space, read_overrides(overrides or []), trials, storage, smoke=smoke)
    print_plan(open_console(), made, as_json=as_json)
    if made["over_budget"]:
        raise typer.Exit(OVER_BUDGET)
