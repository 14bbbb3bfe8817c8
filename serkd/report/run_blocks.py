"""Tables of how an ablation went, and of what its chosen arms reached on test."""

from collections.abc import Mapping, Sequence
from typing import Any

from serkd.report.block import Block, Report, number, percent, seconds


def stopping_block(report: Report) -> Block:
    """The early-stopping audit."""
    rows = [
        (
            each["name"],
            _range(each["best_epochs"]),
            _range(each["num_epochs"]),
            str(each["max_epochs"]),
            f"{each['num_late']} of {len(each['best_epochs'])}",
        )
        for each in report["training"]
        if each["curve"]
    ]
    head = ("arm", "best epoch", "epochs run", "at most", "best at the very end")
    note = "Cells whose best epoch is among the last ones might have gained from more epochs."
    return Block("stopping", "When training stopped", head, tuple(rows), 1, (note,))


def _range(values: Sequence[int]) -> str:
    middle = sorted(values)[len(values) // 2]
    return f"{middle} ({min(values)}–{max(values)})" if len(values) > 1 else str(middle)


def failures_block(report: Report) -> Block:
    """Cells that failed, by kind."""
    rows = [
        (
            each["kind"],
            each["example"].splitlines()[0] if each["example"] else "",
            str(each["count"]),
        )
        for each in report["failures"]
    ]
    return Block("failures", "Failures", ("kind", "example", "cells"), tuple(rows), 2)


def cost_block(report: Report) -> Block:
    """What stages took, and what sharing saved."""
    cost = report["cost"]
    rows = [
        (
            row["stage"],
            str(row["requests"]),
            str(row["distinct"]),
            seconds(row["seconds"]),
            seconds(row["seconds_unshared"]),
        )
        for row in [*cost["stages"], {"stage": "all", **cost["total"]}]
    ]
    total = cost["total"]
    saved = total["seconds_unshared"] - total["seconds"]
    note = (
        f"{cost['num_cells']} cells asked for {total['requests']} stages, of which "
        f"{total['distinct']} were different; sharing saved {seconds(saved)}."
    )
    head = ("stage", "asked for", "different", "took", "unshared")
    return Block("cost", "What it took", head, tuple(rows), 1, (note,))


def published_block(report: Report) -> Block:
    """Results in print that ours may stand beside, or why they may not."""
    found = report["published"]
    rows = [
        (r["system"], r["source"], r["parameters_m"], *(number(r[m], ".2f") for m in _METRICS))
        for r in found["rows"]
    ]
    ours = report["test"]["arms"] if found["rows"] else []
    rows += [(f"ours: {row['name']}", "", "", *_percents(row)) for row in ours]
    notes = tuple(f"Not compared with {r['system']}: {r['why']}." for r in found["refusals"])
    head = ("system", "source", "parameters, M", "WAR", "UAR", "WF1")
    return Block("published", "Beside published results", head, tuple(rows), 2, notes)


_METRICS = ("war", "uar", "wf1")


def _percents(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(percent(row["metrics"][name]) for name in _METRICS)


_UNSEEN = {
    False: "The test split was not opened.",
    True: "The test split was opened, but of other seeds or settings than the arms have now.",
}


def test_block(report: Report) -> Block:
    """The sealed evaluation of chosen arms."""
    test = report["test"]
    rows = []
    for row in test["arms"] if test else []:
        spread = "" if row["sd"] is None else f" ± {100 * row['sd']:.1f}"
        rows.append((row["name"], f"{percent(row['mean'])}{spread}", *_percents(row)))
    notes = tuple(test["look"].splitlines()) if test else (_UNSEEN[report["is_test_opened"]],)
    head = ("arm", "mean ± sd of folds", "WAR pooled", "UAR pooled", "WF1 pooled")
    return Block("test", "Sealed test, percent", head, tuple(rows), 1, notes)
