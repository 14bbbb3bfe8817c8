"""A row of a report, run again from nothing: what ``serkd reproduce`` does."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serkd.corpora.folds import Fold, hash_folds
from serkd.corpora.protocols import read_folds
from serkd.devices import choose_device, describe_processor
from serkd.errors import InputError, refuse
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.report.outcome import read_outcome
from serkd.report.results import dev_labels, read_json
from serkd.search.cells import Cell
from serkd.stages.catalogue import MODELS, STAGES
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.threads import set_threads
from serkd.train.metrics import confusion_metric


def reproduce_row(
    path: Path,
    number: int,
    fold: str | None,
    seed: int | None,
    storage: Path,
    observer: Observer,
) -> dict[str, Any]:
    """Compute the row's cells in an empty storage and compare their confusion counts.

    `is_equal` means bit for bit the same predictions; that can be asked of a machine of the same
    kind with the same number of threads. `fold` and `seed` choose some of the cells.

    Raises:
        InputError: no such row or cell, a storage that is not empty, or another corpus.
    """
    report = _read_report(path)
    row = _find_row(report, number, path)
    cells = [c for c in row["cells"] if c["is_done"] and _is_asked(c, fold, seed)]
    if not cells:
        raise InputError(f"--fold and --seed must name a finished cell of row {number}")
    if storage.exists() and (not storage.is_dir() or any(storage.iterdir())):
        raise InputError(f"--storage must be an empty folder, or none, got {storage}")
    experiment = build_experiment(row["experiment"], {}, origin=f"{path}, row {number}")
    folds = read_folds(experiment.corpus, experiment.protocol)
    refuse(_data_problems(report["stamp"], folds))
    by_name = {each.name: each for each in folds}
    set_threads(report["stamp"]["num_threads"])
    found = []
    for known in cells:
        again = build_experiment(row["experiment"], {"seed": known["seed"]}, origin="cell")
        cell = Cell(again, known["fold"], report["stamp"]["model"])
        now = _run(cell, by_name, storage, observer)
        found.append(_compare(report, known, now))
    is_equal = all(cell["is_equal"] for cell in found)
    notes = [] if is_equal else _differences(report["stamp"], now["precision"])
    return {
        "row": number,
        "arm": row["name"],
        "cells": found,
        "is_equal": is_equal,
        "notes": notes,
    }


def _read_report(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: must be a report.json, there is none")
    report = read_json(path)
    needed = {"num_threads", "model", "machine", "versions", "corpus_hash", "folds_hash"}
    if not needed <= report.get("stamp", {}).keys() or "arms" not in report.get("comparison", {}):
        raise InputError(f"{path}: must be the report.json of an ablation")
    return report


def _find_row(report: Mapping[str, Any], number: int, path: Path) -> dict[str, Any]:
    rows = report["comparison"]["arms"]
    if not 0 <= number < len(rows):
        raise InputError(f"--row must be 0 to {len(rows) - 1}, the rows of {path}, got {number}")
    return rows[number]


def _is_asked(cell: Mapping[str, Any], fold: str | None, seed: int | None) -> bool:
    return (fold is None or cell["fold"] == fold) and (seed is None or cell["seed"] == seed)


def _data_problems(stamp: Mapping[str, Any], folds: list[Fold]) -> list[str]:
    now = {"corpus": folds[0].manifest.audio_hash, "folds": hash_folds(folds)}
    return [
        f"the {what} must be that of the report ({stamp[f'{what}_hash'][:8]}), it is {digest[:8]}"
        for what, digest in now.items()
        if stamp[f"{what}_hash"] != digest
    ]


def _run(
    cell: Cell,
    folds: Mapping[str, Fold],
    storage: Path,
    observer: Observer,
) -> dict[str, Any]:
    fold, store = folds[cell.fold], StageStore(storage)
    graph = Graph(STAGES, cell.experiment, fold)
    compute = Compute(device=choose_device(cell.experiment.train.device))
    try:
        graph.run([MODELS[cell.model]], store, compute, observer)
    finally:
        compute.close()
    outcome = read_outcome(cell, fold, store, dev_labels(fold))
    assert outcome is not None, "the graph has run"
    return outcome


def _compare(
    report: Mapping[str, Any], known: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    metric = report["comparison"]["metric"]
    then = {name: known[name] for name in ("speakers", "confusions", "class_names")}
    values = [float(confusion_metric(np.sum(e["confusions"], axis=0), metric)) for e in (then, now)]
    return {
        "fold": known["fold"],
        "seed": known["seed"],
        "report": values[0],
        "now": values[1],
        "is_equal": all(now[name] == value for name, value in then.items()),
    }


def _differences(stamp: Mapping[str, Any], precision: str | None) -> list[str]:
    """What may explain that it did not come out the same."""
    notes = []
    if (here := describe_processor()) != stamp["machine"]:
        notes.append(f"the report is from {stamp['machine']}, this is {here}")
    if precision is not None and precision not in stamp["precisions"]:
        trained = ", ".join(stamp["precisions"])
        notes.append(f"the report's students were trained in {trained}, this one in {precision}")
    for name, versions in stamp["versions"].items():
        if name != "git" and version(name) not in versions:
            notes.append(f"the report is of {name} {', '.join(versions)}, here is {version(name)}")
    return notes or ["same kind of machine and versions: the code has changed, or is not exact"]
