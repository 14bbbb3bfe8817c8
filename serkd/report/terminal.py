"""What a person sees: stage lines, progress bars, tables."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from serkd.events import Observer
from serkd.report.cost import describe_cost
from serkd.report.tables import results_table
from serkd.report.units import told_table, unit_warnings, units_table
from serkd.search.status import Status

_STAGE_WIDTH = 31  # "teacher_outputs inner 10 fold 5"


class Terminal(Observer):
    """A line for each stage; while one runs, a bar with a rate and the time left.

    Bars are shown on a terminal only.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.current: tuple[str, Any] | None = None
        self.table: Live | None = None  # of a sweep

    def __enter__(self) -> "Terminal":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()
        if self.table is not None:
            self.table.stop()

    def progress(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        if self.current is None or self.current[0] != stage:
            self._clear()
            task = self.bar.add_task(stage, total=total, completed=done, rate="")
            self.current = (stage, task)
        task = self.current[1]
        speed = self.bar.tasks[-1].speed
        rate = f"{speed:.1f} {unit}/s" if speed else unit
        self.bar.update(task, completed=done, rate=f"{rate}, {note}" if note else rate)

    def sweep(self, status: Status) -> None:
        """A table below all lines, on a terminal only; at most one a second is drawn."""
        if not self.console.is_terminal:
            return
        self._clear()
        table = status_table("sweep", status)
        if self.table is None:
            self.table = Live(table, console=self.console, refresh_per_second=1, transient=True)
            self.bar.stop()
            self.table.start()
        self.table.update(table)

    def _clear(self) -> None:
        if self.current is not None:
            self.bar.remove_task(self.current[1])
            self.current = None

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        self._clear()
        how = f"stored (took {seconds:.1f} s)" if is_cached else f"computed in {seconds:.1f} s"
        self.console.print(f"  {name:<{_STAGE_WIDTH}} {key[:12]}  {how}", highlight=False)


def status_table(name: str, status: Status) -> Table:
    """How a sweep stands, in one line of a table."""
    counts = status.counts
    table = Table(title=name, title_justify="left")
    cells = {
        "done": f"{status.num_done}/{status.total}",
        "running": str(counts["running"]),
        "pruned": str(counts["pruned"]),
        "failed": str(counts["failed"]),
        "best": "-",
        "trials/h": "-" if status.trials_per_hour is None else f"{status.trials_per_hour:.0f}",
        "left": "-" if status.left_s is None else str(timedelta(seconds=round(status.left_s))),
        "stages reused": "-" if status.reuse is None else f"{100 * status.reuse:.0f} %",
    }
    if status.best is not None:
        cells["best"] = f"{status.best.value:.4f} (trial {status.best.number})"
    for column in cells:
        table.add_column(column, justify="right")
    table.add_row(*cells.values())
    return table


def trials_table(trials: Sequence[Mapping[str, Any]], objective: str) -> Table:
    """Every trial: its state, its best value, what it tried, what it shared."""
    names = sorted({name for trial in trials for name in trial["params"]})
    table = Table(title="trials", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column(objective, justify="right")
    table.add_column("state")
    table.add_column("epochs", justify="right")
    table.add_column("shared", justify="right")
    for name in _short_names(names):
        table.add_column(name, overflow="fold")
    for trial in trials:
        value, requests = trial.get("value"), trial.get("stage_requests")
        shared = "" if requests is None else f"{requests - trial['stages_computed']}/{requests}"
        table.add_row(
            str(trial["trial"]),
            "" if value is None else f"{value:.3f}",
            trial["state"],
            str(trial.get("epochs", "")),
            shared,
            *(_short(trial["params"].get(name)) for name in names),
        )
    return table


def _short_names(names: Sequence[str]) -> list[str]:
    """Dotted keys without their sections, where that is still unique."""
    leaves = [name.rpartition(".")[2] for name in names]
    return [
        leaf if leaves.count(leaf) == 1 else name for leaf, name in zip(leaves, names, strict=True)
    ]


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_units(console: Console, folds: Mapping[str, Mapping[str, Any]]) -> None:
    """What the units of each fold are like, and what is wrong with them."""
    if not any(fold["units"] for fold in folds.values()):
        return
    console.print(units_table(folds))
    console.print(told_table(folds))
    for warning in unit_warnings(folds):
        console.print(f"warning: {warning}", soft_wrap=True, highlight=False)


def print_run(console: Console, results: Mapping[str, Any], folder: Path, *, as_json: bool) -> None:
    """The table of a run and where its files are."""
    if as_json:
        print(json.dumps(results))
        return
    print_units(console, results["folds"])
    console.print(results_table(results))
    for name, fold in results["folds"].items():
        if "out_of_fold" in fold:
            uar = 100 * fold["out_of_fold"]["uar"]
            console.print(f"out of fold  train UAR {uar:.1f}, fold {name}: teachers of inner folds")
    for model, cost in results["cost"].items():
        console.print(f"{model:<12} {describe_cost(cost)}", soft_wrap=True, highlight=False)
    stages = [stage for fold in results["folds"].values() for stage in fold["stages"]]
    computed = sum(not stage["is_cached"] for stage in stages)
    console.print(f"{len(stages)} stage requests, {computed} computed")
    console.print(f"test         sealed; serkd test {folder}", soft_wrap=True)
    console.print(f"results      {folder / 'results.json'}", soft_wrap=True)
    console.print(f"utterances   {folder / 'dev_predictions.parquet'}", soft_wrap=True)
    console.print(f"confusion    {folder / 'confusion.png'}", soft_wrap=True)
    console.print(f"TensorBoard  tensorboard --logdir {folder / 'tensorboard'}", soft_wrap=True)


def print_test(
    console: Console, results: Mapping[str, Any], folder: Path, *, as_json: bool
) -> None:
    """The table of an opened test split, and which look it was."""
    if as_json:
        print(json.dumps(results))
        return
    console.print(results_table(results))
    console.print(results["look"]["text"], soft_wrap=True, highlight=False)
    console.print(f"results      {folder / 'test.json'}", soft_wrap=True)
    console.print(f"utterances   {folder / 'test_predictions.parquet'}", soft_wrap=True)
    console.print(f"confusion    {folder / 'confusion_test.png'}", soft_wrap=True)


def print_sweep(console: Console, done: Mapping[str, Any], *, as_json: bool) -> None:
    """The table of a sweep's trials, the best one, and what was shared."""
    if as_json:
        print(json.dumps(done))
        return
    console.print(trials_table(done["trials"], done["objective"]))
    if best := done["best"]:
        settings = " ".join(
            f"--set {name}='{json.dumps(value)}'" for name, value in best["params"].items()
        )
        console.print(
            f"best: trial {best['trial']}, {done['objective']} {best['value']:.3f}: {settings}",
            soft_wrap=True,
            highlight=False,
        )
    console.print(
        f"{done['stage_requests']} stage requests, {done['stages_computed']} computed",
        highlight=False,
    )
    console.print(f"sweep        {done['folder']}", soft_wrap=True)
    console.print(f"TensorBoard  tensorboard --logdir {done['folder']}/tensorboard", soft_wrap=True)
