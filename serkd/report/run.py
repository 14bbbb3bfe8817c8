"""One experiment from configuration to results: what ``serkd run`` does."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serkd import runtime
from serkd.config import Experiment
from serkd.corpora.folds import Fold, hash_folds, select_folds
from serkd.corpora.protocols import read_folds
from serkd.events import Observer, Observers
from serkd.files import write_json
from serkd.report.plots import draw_confusions, draw_pooled, save_figure
from serkd.report.results import MODELS, evaluate, pool_folds, stage_row, unit_quality
from serkd.report.tensorboard import TensorBoard
from serkd.report.units import show_units
from serkd.stages.catalogue import STAGES
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.key import compute_key
from serkd.stages.store import StageStore
from serkd.threads import set_threads

TARGETS = list(MODELS.values())


def run_folder(storage: Path, name: str, experiment: Experiment, fold: str) -> Path:
    """Where an experiment's results go; the same experiment and folds have the same folder."""
    digest = compute_key(experiment.model_dump(mode="json"))[:8]
    return storage / "runs" / f"{name}-{digest}-fold-{fold}"


def run_experiment(
    experiment: Experiment, fold_choice: str, storage: Path, name: str, observer: Observer
) -> tuple[dict[str, Any], Path]:
    """Run all stages of the chosen folds; returns the results on dev and the folder they are in.

    Writes results.json, experiment.json, folds.json, confusion.png, units/ and tensorboard/. The
    test split stays sealed.
    """
    all_folds = read_folds(experiment.corpus, experiment.protocol)
    folds = select_folds(all_folds, fold_choice)
    folder = run_folder(storage, name, experiment, fold_choice)
    store = StageStore(storage)
    graphs = [Graph(STAGES, experiment, fold) for fold in folds]
    for graph in graphs:
        graph.check()
    compute = start_compute(experiment, graphs, TARGETS, store)
    found: dict[str, Any] = {}
    try:
        for graph in graphs:
            board = TensorBoard(folder / "tensorboard" / f"fold_{graph.fold.name}")
            watchers = Observers([observer, board])
            found[graph.fold.name] = _run_fold(graph, store, compute, watchers, board, folder)
    finally:
        compute.close()
    results = {
        "name": name,
        "split": "dev",
        "fold_choice": fold_choice,
        "protocol": experiment.protocol.name,
        "folds_hash": hash_folds(all_folds),
        "shares_speakers": any(fold.shares_speakers for fold in folds),
        "class_names": list(folds[0].manifest.class_names),
        "folds": found,
        "pooled": pool_folds(found, "dev"),
    }
    write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    write_json(folder / "folds.json", describe_folds(all_folds))
    write_json(folder / "results.json", results)
    save_figure(draw_pooled(results), folder / "confusion.png")
    return results, folder


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
    device = runtime.choose_device(experiment.train.device)
    set_threads(os.cpu_count() or 1)
    if all(store.find(ref.stage, g.key(ref)) for g in graphs for ref in targets):
        return Compute(device=device)
    runtime.start_ray()
    return Compute(*runtime.cluster_actors(), device=device)


def _run_fold(
    graph: Graph,
    store: StageStore,
    compute: Compute,
    observer: Observer,
    board: TensorBoard,
    folder: Path,
) -> dict[str, Any]:
    artifacts, stages = graph.run(TARGETS, store, compute, observer)
    fold = graph.fold
    labels = {utt_id: fold.manifest.by_id[utt_id].emotion for utt_id in fold.dev}
    found = evaluate(artifacts, labels, fold.manifest.class_names, "dev")
    show_metrics(board, found, "dev", fold.manifest.class_names)
    quality, pictures = unit_quality(artifacts), folder / "units" / f"fold_{fold.name}"
    show_units(board, pictures, artifacts, quality, fold.manifest.class_names)
    board.close()
    return {**found, "stages": [stage_row(s) for s in stages], "units": quality}


def show_metrics(
    board: TensorBoard, found: dict[str, Any], split: str, class_names: Sequence[str]
) -> None:
    """Final metrics and confusion matrices of both models in TensorBoard."""
    for model in MODELS:
        metrics = found[model][split]
        board.scalars({f"final/{model}_{split}_{n}": metrics[n] for n in ("war", "uar", "wf1")})
        counts = {split: np.array(metrics["confusion"])}
        board.image(f"confusion_{split}/{model}", draw_confusions(counts, class_names))
