"""Commands that look ahead of a sweep, and at what is stored."""

from pathlib import Path
from typing import Annotated

import typer

from serkd.cli.options import (
    ArmsOption,
    JsonOption,
    SeedsOption,
    SetOption,
    SmokeOption,
    StorageOption,
    TrialsOption,
    open_console,
    read_wanted,
)

OVER_BUDGET = 3


def plan(
    space: Annotated[Path, typer.Argument(help="search space or ablation, see search_spaces/")],
    overrides: SetOption = None,
    trials: TrialsOption = None,
    smoke: SmokeOption = False,
    arms: ArmsOption = None,
    seeds: SeedsOption = None,
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
        wanted = read_wanted(arms, seeds)
        found = plan_ablation(space, values, storage, is_smoke=smoke, wanted=wanted)
        print_ablation_plan(open_console(), found, as_json=as_json)
        return
    if arms or seeds is not None:
        raise InputError(f"--arm and --seeds must be left out: {space} is no ablation")
    made = make_plan(space, read_overrides(overrides or []), trials, storage, smoke=smoke)
    print_plan(open_console(), made, as_json=as_json)
    if made["over_budget"]:
        raise typer.Exit(OVER_BUDGET)
