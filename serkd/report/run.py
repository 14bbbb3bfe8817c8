"""One experiment from configuration to results: what ``serkd run`` does."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from serkd import runtime
from serkd.config import Experiment
from serkd.corpora.manifest import read_manifest
from serkd.corpora.protocols import Fold, build_folds, select_folds
from serkd.events import Observer, Observers
from serkd.report.plots import draw_confusions, save_figure
from serkd.report.results import evaluate_fold, pool_folds
from serkd.report.tensorboard import TensorBoard
from serkd.stages.catalogue import STAGES, STUDENT, TEACHER_OUTPUTS
from serkd.stages.graph import Compute, Graph
from serkd.stages.key import compute_key
from serkd.stages.store import StageStore

logger = logging.getLogger(__name__)


def read_folds(experiment: Experiment) -> list[Fold]:
    """The folds of an experiment's corpus under its protocol."""
    manifest = read_manifest(Path(experiment.corpus.manifest))
    return build_folds(experiment.protocol, manifest, experiment.seed)


def run_folder(storage: Path, name: str, experiment: Experiment, fold: str) -> Path:
    """Where an experiment's results go; the same experiment and folds have the same folder."""
    digest = compute_key(experiment.model_dump(mode="json"))[:8]
    return storage / "runs" / f"{name}-{digest}-fold-{fold}"


def run_experiment(
    experiment: Experiment, fold_choice: str, storage: Path, name: str, observer: Observer
) -> tuple[dict[str, Any], Path]:
    """Run all stages of the chosen folds; returns the results and the folder they are in.

    Writes results.json, experiment.json, confusion.png and tensorboard/.
    """
    folds = select_folds(read_folds(experiment), fold_choice)
    folder = run_folder(storage, name, experiment, fold_choice)
    store = StageStore(storage)
    graphs = [Graph(STAGES, experiment, fold) for fold in folds]
    for graph in graphs:
        graph.check()
    compute = _start_compute(experiment, graphs, store)
    found: dict[str, Any] = {}
    try:
        for graph in graphs:
            board = TensorBoard(folder / "tensorboard" / f"fold_{graph.fold.name}")
            watchers = Observers([observer, board])
            found[graph.fold.name] = _run_fold(graph, store, compute, watchers, board)
    finally:
        compute.close()
    results = {
        "name": name,
        "class_names": list(folds[0].manifest.class_names),
        "folds": found,
        "pooled": pool_folds(found),
    }
    write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    write_json(folder / "results.json", results)
    save_figure(draw_pooled(results), folder / "confusion.png")
    return results, folder


def _start_compute(experiment: Experiment, graphs: Sequence[Graph], store: StageStore) -> Compute:
    """Ray only when something is missing: reading stored results needs none."""
    device = runtime.choose_device(experiment.train.device)
    runtime.set_threads(os.cpu_count() or 1)
    targets = [TEACHER_OUTPUTS, STUDENT]
    if all(store.find(ref.stage, g.key(ref)) for g in graphs for ref in targets):
        return Compute(device=device)
    runtime.start_ray()
    return Compute(*runtime.cluster_actors(), device=device)


def _run_fold(
    graph: Graph, store: StageStore, compute: Compute, observer: Observer, board: TensorBoard
) -> dict[str, Any]:
    artifacts, stages = graph.run([TEACHER_OUTPUTS, STUDENT], store, compute, observer)
    found = evaluate_fold(graph.fold, artifacts, stages)
    class_names = graph.fold.manifest.class_names
    for model in ("teacher", "student"):
        for split in ("dev", "test"):
            metrics = found[model][split]
            board.scalars({f"final/{model}_{split}_{n}": metrics[n] for n in ("war", "uar", "wf1")})
        counts = {"test": np.array(found[model]["test"]["confusion"])}
        board.image(f"confusion/{model}", draw_confusions(counts, class_names))
    board.close()
    return found


def draw_pooled(results: Mapping[str, Any]) -> Figure:
    """Test confusion matrices of teacher and student over all folds."""
    confusions = {}
    for model in ("teacher", "student"):
        metrics = results["pooled"][model]["test"]
        confusions[f"{model}, test UAR {metrics['uar']:.3f}"] = np.array(metrics["confusion"])
    folds = ", ".join(results["folds"])
    return draw_confusions(
        confusions, results["class_names"], f"{results['name']}, fold {folds}, unseen speakers"
    )


def write_json(path: Path, value: object) -> None:
    """Write atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
