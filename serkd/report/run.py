"""One experiment from configuration to results: what ``serkd run`` and ``teacher`` do."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from serkd import runtime
from serkd.config import Experiment
from serkd.corpora.folds import Fold, hash_folds, select_folds
from serkd.corpora.protocols import read_folds
from serkd.devices import choose_device
from serkd.events import Observer, Observers, Within
from serkd.files import write_json
from serkd.models.listener import measure_student
from serkd.report.embeddings import show_embeddings
from serkd.report.plots import draw_confusions, draw_pooled, save_figure
from serkd.report.predictions import predictions_table, write_predictions
from serkd.report.results import (
    dev_labels,
    evaluate,
    out_of_fold,
    pool_folds,
    stage_row,
    unit_quality,
)
from serkd.report.tensorboard import TensorBoard
from serkd.report.units import show_units
from serkd.stages.catalogue import MODELS, STAGES, list_targets
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.key import compute_key
from serkd.stages.store import StageStore
from serkd.storage.sync import synced
from serkd.threads import set_threads


def run_folder(storage: Path, name: str, experiment: Experiment, fold: str) -> Path:
    """Where an experiment's results go; the same experiment and folds have the same folder."""
    digest = compute_key(experiment.model_dump(mode="json"))[:8]
    return storage / "runs" / f"{name}-{digest}-fold-{fold}"


def run_experiment(
    experiment: Experiment,
    fold_choice: str,
    storage: Path,
    name: str,
    observer: Observer,
    models: Sequence[str] = tuple(MODELS),
) -> tuple[dict[str, Any], Path]:
    """Have `models` on the chosen folds; returns the results on dev and the folder they are in.

    Writes results.json, dev_predictions.parquet, experiment.json, folds.json, confusion.png, units/
    and tensorboard/. The test split stays sealed.
    """
    all_folds = read_folds(experiment.corpus, experiment.protocol)
    folds = select_folds(all_folds, fold_choice)
    folder = run_folder(storage, name, experiment, fold_choice)
    store = StageStore(storage)
    graphs = [Graph(STAGES, experiment, fold) for fold in folds]
    targets = list_targets(experiment, models)
    for graph in graphs:
        graph.check(targets)
    with synced(folder):
        found = _run_folds(experiment, graphs, targets, store, observer, folder)
        parts = [_predictions(graph, targets, store) for graph in graphs]
        write_predictions(folder, "dev", experiment, all_folds, parts)
        results = {
            "name": name,
            "split": "dev",
            "fold_choice": fold_choice,
            "models": list(models),
            "protocol": experiment.protocol.name,
            "folds_hash": hash_folds(all_folds),
            "shares_speakers": any(fold.shares_speakers for fold in folds),
            "class_names": list(folds[0].manifest.class_names),
            "cost": _measure_cost(graphs[0], models),
            "folds": found,
            "pooled": pool_folds(found, "dev"),
        }
        write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
        write_json(folder / "folds.json", describe_folds(all_folds))
        write_json(folder / "results.json", results)
        save_figure(draw_pooled(results), folder / "confusion.png")
    return results, folder


def _run_folds(
    experiment: Experiment,
    graphs: Sequence[Graph],
    targets: Sequence[Ref],
    store: StageStore,
    observer: Observer,
    folder: Path,
) -> dict[str, Any]:
    """What was found on each fold, one after the other."""
    compute = start_compute(experiment, graphs, targets, store)
    found: dict[str, Any] = {}
    try:
        for graph in graphs:
            board = TensorBoard(folder / "tensorboard" / f"fold_{graph.fold.name}")
            part = f"fold {graph.fold.name}"
            heard = Within(observer, part) if len(graphs) > 1 else observer
            watchers = Observers([heard, board])
            found[graph.fold.name] = _run_fold(
                graph, targets, store, compute, watchers, board, folder
            )
    finally:
        compute.close()
    return found


def _measure_cost(graph: Graph, models: Sequence[str]) -> dict[str, Any]:
    """What the student costs to use, where there is one: the same in every fold."""
    if "student" not in models:
        return {}
    num_classes = len(graph.fold.manifest.class_names)
    return {"student": measure_student(graph.experiment.student, graph.backbone, num_classes)}


def describe_folds(folds: Sequence[Fold]) -> dict[str, Any]:
    """The utterances of every part of every fold, with hashes; no labels."""
    return {
        "hash": hash_folds(folds),
        "folds": {
            fold.name: {
                "hash": fold.split_hash,
                "shares_speakers": fold.shares_speakers,
                "train": fold.train,
                "dev": fold.dev,
                "test": fold.test,
            }
            for fold in folds
        },
    }


def start_compute(
    experiment: Experiment, graphs: Sequence[Graph], targets: Sequence[Ref], store: StageStore
) -> Compute:
    """Ray only when something is missing: reading stored results needs none."""
    device = choose_device(experiment.train.device)
    set_threads(os.cpu_count() or 1)
    if all(store.find(ref.stage, g.key(ref)) for g in graphs for ref in targets):
        return Compute(device=device)
    runtime.start_ray()
    actors = runtime.cluster_actors(is_shared=store.mirror is None)
    return Compute(*actors, device=device)


def _run_fold(
    graph: Graph,
    targets: Sequence[Ref],
    store: StageStore,
    compute: Compute,
    observer: Observer,
    board: TensorBoard,
    folder: Path,
) -> dict[str, Any]:
    artifacts, stages = graph.run(targets, store, compute, observer)
    fold = graph.fold
    found = evaluate(artifacts, dev_labels(fold), fold.manifest.class_names, "dev")
    show_metrics(board, found, "dev", fold.manifest.class_names)
    quality, pictures = unit_quality(artifacts), folder / "units" / f"fold_{fold.name}"
    show_units(board, pictures, artifacts, quality, fold.manifest.class_names)
    show_embeddings(board, artifacts, fold)
    board.close()
    rows = [stage_row(stage) for stage in stages]
    return {**found, **out_of_fold(artifacts), "stages": rows, "units": quality}


def _predictions(graph: Graph, targets: Sequence[Ref], store: StageStore) -> pa.Table:
    artifacts = {ref: store.get(ref.stage, graph.key(ref)) for ref in targets}
    return predictions_table(artifacts, graph.fold, dev_labels(graph.fold))


def show_metrics(
    board: TensorBoard, found: dict[str, Any], split: str, class_names: Sequence[str]
) -> None:
    """Final metrics and confusion matrices of the models in TensorBoard."""
    for model in filter(found.__contains__, MODELS):
        metrics = found[model][split]
        board.scalars({f"final/{model}_{split}_{n}": metrics[n] for n in ("war", "uar", "wf1")})
        counts = {split: np.array(metrics["confusion"])}
        board.image(f"confusion_{split}/{model}", draw_confusions(counts, class_names))
