"""The sealed evaluation of chosen arms of an ablation: what ``serkd test`` does to its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serkd.corpora.folds import Fold
from serkd.corpora.protocols import read_folds
from serkd.corpora.seal import open_seal
from serkd.errors import InputError
from serkd.files import write_json
from serkd.report.answer import PLAN, TESTED, describe_opened, read_plan, write_report
from serkd.report.arm_table import compare_arms
from serkd.report.asked import is_of_corpus, read_cells
from serkd.report.outcome import read_outcome
from serkd.search.cells import Cell
from serkd.stages.catalogue import MODELS, STAGES
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.storage.sync import synced

Cells = Mapping[tuple[str, int], Cell]


def is_ablation_folder(folder: Path) -> bool:
    """Whether `serkd ablate` made it."""
    return (folder / PLAN).is_file()


def open_arms(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Evaluate arms on the test split and write the report anew; the reference is always there.

    Without names it is the best arm on dev. All cells of these arms must be stored: nothing is
    computed. The look is written to STORAGE/test_log.jsonl before a label is read.

    Raises:
        InputError: no such arm, or cells that are not finished.
    """
    with synced(folder):
        return _open_arms(folder, names)


def _open_arms(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    plan = read_plan(folder)
    chosen = _choose(plan, names or [_best(folder)])
    storage = folder.resolve().parent.parent
    store = StageStore(storage)
    arms = {arm["name"]: read_cells(plan, arm) for arm in chosen}
    experiment = next(iter(next(iter(arms.values())).values())).experiment
    every = read_folds(experiment.corpus, experiment.protocol)
    if not is_of_corpus(plan, every):
        raise InputError(f"{folder}: must be of the corpus as it is now; run `serkd ablate` again")
    all_folds = {fold.name: fold for fold in every}
    folds = [all_folds[name] for name in plan["folds"]]
    keys = _find_keys(arms, all_folds, store, folder)
    emotions, look = open_seal(
        storage / "test_log.jsonl",
        f"{folder.resolve().parent.name}/{folder.resolve().name}",
        f"arms {', '.join(arms)}",
        experiment.corpus,
        experiment.protocol,
        folds,
        keys,
        folder / TESTED,
    )
    labels = {fold.name: {i: emotions[i] for i in fold.test} for fold in folds}
    outcomes = {
        name: {
            pair: _outcome(cell, all_folds[cell.fold], store, labels[cell.fold])
            for pair, cell in cells.items()
        }
        for name, cells in arms.items()
    }
    found = compare_arms(plan, outcomes, "test")
    opened = {name: describe_opened(plan, name, outcomes[name]) for name in arms}
    seen = {"opened": opened, "look": look.text, "look_digest": look.digest}
    write_json(folder / TESTED, {**found, **seen})
    return write_report(folder)


def _choose(plan: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    reference, *others = plan["arms"]
    known = {name for arm in plan["arms"] for name in (arm["name"], *arm["also"])}
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"--arm must be one of {', '.join(sorted(known))}, got {', '.join(unknown)}"
        )
    return [reference, *(arm for arm in others if {arm["name"], *arm["also"]} & {*names})]


def _best(folder: Path) -> str:
    """The arm with the highest mean on dev."""
    rows = [row for row in write_report(folder)["comparison"]["arms"] if row["mean"] is not None]
    if not rows:
        raise InputError(f"{folder}: must have a finished arm, it has none")
    return str(max(rows, key=lambda row: row["mean"])["name"])


def _find_keys(
    arms: Mapping[str, Cells], folds: Mapping[str, Fold], store: StageStore, folder: Path
) -> dict[str, str]:
    """The content keys of all models, which must be stored."""
    keys, missing = {}, []
    for name, cells in arms.items():
        for (fold, seed), cell in cells.items():
            ref = MODELS[cell.model]
            key = Graph(STAGES, cell.experiment, folds[fold]).key(ref)
            keys[f"{name}, fold {fold}, seed {seed}"] = key
            if store.find(ref.stage, key) is None:
                missing.append(f"{name} (fold {fold}, seed {seed})")
    if missing:
        raise InputError(
            f"{folder}: every cell of the chosen arms must be finished, these are not: "
            f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}; run `serkd ablate` again"
        )
    return keys


def _outcome(
    cell: Cell, fold: Fold, store: StageStore, labels: Mapping[str, str]
) -> dict[str, Any]:
    found = read_outcome(cell, fold, store, labels)
    assert found is not None, "its key was found before the seal was opened"
    return found
