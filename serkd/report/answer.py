"""An ablation's answer: one JSON, from which every page, table and figure is made."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from serkd.errors import InputError
from serkd.files import write_json
from serkd.report.arm_table import compare_arms
from serkd.report.effects import describe_factors, find_pareto
from serkd.report.ledger_facts import count_costs, describe_training, group_failures
from serkd.report.published import compare_published
from serkd.report.render import render_all
from serkd.report.results import read_json
from serkd.search.ledger import Ledger

PLAN, CELLS, REPORT, TESTED = "ablation.json", "cells", "report", "arms_test.json"
FORMAT = 1


def read_plan(folder: Path) -> dict[str, Any]:
    """What an ablation's folder says of its arms and cells.

    Raises:
        InputError: not the folder of an ablation.
    """
    if not (folder / PLAN).is_file():
        raise InputError(f"{folder}: must be a folder that `serkd ablate` made")
    plan = read_json(folder / PLAN)
    if not {"file", "arms", "folds", "tuning_cells"} <= plan.keys():
        raise InputError(f"{folder / PLAN}: must be of this version of serkd; ablate again")
    return plan


def build_report(folder: Path) -> dict[str, Any]:
    """Everything that is known of an ablation now; partial while cells are missing.

    Raises:
        InputError: not the folder of an ablation.
    """
    plan = read_plan(folder)
    arms = {arm["name"]: _outcomes(folder / CELLS, arm) for arm in plan["arms"]}
    file = plan["file"]
    found = compare_arms(plan, arms, "dev")
    planned = {name for arm in plan["arms"] for *_, name in arm["cells"]}
    done = {outcome["cell"] for outcomes in arms.values() for outcome in outcomes.values()}
    if (num_asked := len(arms)) < plan["num_arms_of_file"]:
        found["notes"].append(
            f"{num_asked} of the file's {plan['num_arms_of_file']} arms were asked for: Holm's "
            "correction is for these"
        )
    _add_arms(found["arms"], plan, arms, folder)
    report = {
        "format": FORMAT,
        "name": plan["name"],
        "question": file["question"],
        "design": file["design"],
        "num_cells": len(planned),
        "num_done": len(done),
        "is_partial": bool(planned - done),
        "stamp": _stamp(plan, arms),
        "comparison": found,
        "factors": describe_factors(found["arms"], file["metric"]),
        "pareto": find_pareto(found["arms"]),
        "training": describe_training(arms),
        "failures": group_failures(Ledger(folder / "ledger.jsonl").replay(), planned - done),
        "cost": count_costs(_read_outcomes(folder / CELLS, planned | {*plan["tuning_cells"]})),
        "retune": _describe_retune(file),
        "test": _tested(folder, plan, arms),
        "is_test_opened": (folder / TESTED).is_file(),
    }
    return {**report, "published": compare_published(report)}


def describe_opened(
    plan: Mapping[str, Any], arm: str, outcomes: Mapping[tuple[str, int], Mapping[str, Any]]
) -> dict[str, Any]:
    """Which models an arm's are, and of which corpus: those that a look at test was at."""
    (cells,) = (each["cells"] for each in plan["arms"] if each["name"] == arm)
    known = [(fold, seed, outcomes.get((fold, seed))) for fold, seed, _ in cells]
    return {
        "corpus_hash": plan["corpus_hash"],
        "folds_hash": plan["folds_hash"],
        "models": [[fold, seed, one and one["stages"][-1][1]] for fold, seed, one in known],
    }


def _tested(
    folder: Path,
    plan: Mapping[str, Any],
    arms: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]],
) -> dict[str, Any] | None:
    """What was seen of the test split, of arms that are still what they were then.

    Without the reference, against which the others were held, of none.
    """
    if not (folder / TESTED).is_file():
        return None
    seen = read_json(folder / TESTED)
    now = {name: describe_opened(plan, name, outcomes) for name, outcomes in arms.items()}
    rows = [row for row in seen["arms"] if now.get(row["name"]) == seen["opened"][row["name"]]]
    return {**seen, "arms": rows} if rows[:1] == seen["arms"][:1] else None


def _outcomes(cells: Path, arm: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    found = {}
    for fold, seed, name in arm["cells"]:
        if (path := cells / f"{name}.json").is_file():
            found[fold, seed] = read_json(path)
    return found


def _read_outcomes(cells: Path, names: Collection[str]) -> list[dict[str, Any]]:
    """Those that are there."""
    return [read_json(path) for path in sorted(cells.glob("*.json")) if path.stem in names]


def _add_arms(
    rows: Sequence[dict[str, Any]],
    plan: Mapping[str, Any],
    arms: Mapping[str, Mapping[tuple[str, int], Mapping[str, Any]]],
    folder: Path,
) -> None:
    """What an arm is, beside what it reached."""
    for number, (row, arm) in enumerate(zip(rows, plan["arms"], strict=True)):
        outcomes = arms[arm["name"]]
        first = next(iter(outcomes.values()), {})
        row.update(
            row=number,
            also=arm["also"],
            settings=arm["settings"],
            tuned=arm["tuned"],
            levels=arm["levels"],
            experiment=arm["experiment"],
            num_planned=len(arm["cells"]),
            parameters=first.get("parameters"),
            macs=arm["macs"],
            latency_ms=arm["latency_ms"],
            cells=[_cell(fold, seed, name, outcomes) for fold, seed, name in arm["cells"]],
            command=shlex.join(
                ["serkd", "reproduce", str(folder / REPORT / "report.json"), "--row", str(number)]
            ),
        )


def _cell(
    fold: str, seed: int, name: str, outcomes: Mapping[tuple[str, int], Mapping[str, Any]]
) -> dict[str, Any]:
    """What `serkd reproduce` compares with: counts by speaker, and the model's key."""
    outcome = outcomes.get((fold, seed))
    cell: dict[str, Any] = {
        "fold": fold,
        "seed": seed,
        "cell": name,
        "is_done": outcome is not None,
    }
    if outcome is not None:
        names = ("speakers", "confusions", "class_names")
        cell |= {key: outcome[key] for key in names}
        cell["key"] = outcome["stages"][-1][1] if outcome["stages"] else None
    return cell


def _stamp(plan: Mapping[str, Any], arms: Mapping[str, Mapping[Any, Any]]) -> dict[str, Any]:
    outcomes = [outcome for arm in arms.values() for outcome in arm.values()]
    versions = [outcome["versions"] for outcome in outcomes if outcome.get("versions")]
    precisions = {
        precision
        for outcome in outcomes
        for precision in (outcome.get("precision") or "").split(" and ")  # went on elsewhere
        if precision
    }
    file = plan["file"]
    return {
        "corpora": plan["corpora"],
        "class_names": plan["class_names"],
        "num_utterances": plan["num_utterances"],
        "protocol": plan["protocol"],
        "shares_speakers": plan["shares_speakers"],
        "all_folds": plan["all_folds"],
        "folds": plan["folds"],
        "seeds": file["seeds"],
        "model": file["model"],
        "family": plan["arms"][0]["experiment"]["student"]["family"],
        "backbone": plan["arms"][0]["experiment"]["backbone"]["name"],
        "num_threads": file["resources"]["cpu"],
        "machine": plan["machine"],
        "selection": "best epoch by dev UAR, within the cell; arms are compared on dev",
        "corpus_hash": plan["corpus_hash"],
        "folds_hash": plan["folds_hash"],
        "versions": {
            name: sorted({each[name] for each in versions if name in each})
            for name in sorted({name for each in versions for name in each})
        },
        "precisions": sorted(precisions),
        "command": plan["command"],
    }


def _describe_retune(file: Mapping[str, Any]) -> dict[str, Any] | None:
    retune = file["retune"]
    if retune is None:
        return None
    return {"keys": list(retune["space"]), "trials": retune["trials"], "seed": retune["seed"]}


def write_report(folder: Path) -> dict[str, Any]:
    """Build the report and write it in all its forms below `report/`."""
    report = build_report(folder)
    write_json(folder / REPORT / "report.json", report)
    render_all(report, folder / REPORT)
    return report
