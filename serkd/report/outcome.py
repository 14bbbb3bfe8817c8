"""What one cell of an ablation came to, from the stages that are stored for it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serkd.corpora.folds import Fold
from serkd.report.bootstrap import speaker_confusions
from serkd.search.cells import Cell
from serkd.stages.catalogue import MODELS, STAGES, TEACHER
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.train.outputs import read_outputs

Labels = Mapping[str, str]


def read_outcome(
    cell: Cell, fold: Fold, store: StageStore, labels: Labels
) -> dict[str, Any] | None:
    """The cell's outcome on the utterances of `labels`; None where its model is not stored.

    `confusions` (G, C, C) are counts by speaker, true and predicted class; `stages` are all that
    the model was made of, whoever computed them, with what they took. `precision` is that of a
    student's training.
    """
    graph, model = Graph(STAGES, cell.experiment, fold), cell.model
    ref = MODELS[model]
    found = store.find(ref.stage, graph.key(ref))
    if found is None:
        return None
    found.require_fold(fold)
    logits = read_outputs(found.folder / "outputs.parquet").select(list(labels)).logits
    trained = ref if model == "student" else TEACHER
    facts = _read_json(found.folder / "model.json")
    return {
        "cell": cell.name,
        "fold": fold.name,
        "seed": cell.seed,
        **count_speakers(fold, labels, logits.argmax(axis=1)),
        "num_train": len(fold.train),
        "parameters": facts["num_parameters"],
        "curve": _read_curve(store.find(trained.stage, graph.key(trained))),
        "max_epochs": _max_epochs(cell, model),
        "stages": _stage_costs(graph, store, model),
        "versions": found.info["versions"],
        "precision": facts.get("precision"),
    }


def count_speakers(fold: Fold, labels: Labels, said: np.ndarray) -> dict[str, Any]:
    """`speakers` with their genders, and `confusions` by speaker; `said` (U,) are class indices."""
    rows = [fold.manifest.by_id[utt_id] for utt_id in labels]
    genders = {row.speaker_id: row.gender for row in rows}
    speakers = sorted(genders)
    index = {name: i for i, name in enumerate(fold.manifest.class_names)}
    counts = speaker_confusions(
        np.array([index[emotion] for emotion in labels.values()]),
        said,
        np.array([speakers.index(row.speaker_id) for row in rows]),
        len(speakers),
        len(index),
    )
    return {
        "class_names": list(index),
        "speakers": [[name, genders[name]] for name in speakers],
        "confusions": counts.tolist(),
    }


def _max_epochs(cell: Cell, model: str) -> int:
    experiment = cell.experiment
    fit = experiment.student.fit if model == "student" else experiment.teacher.stage2.fit
    return fit.epochs


def _read_curve(artifact: Any) -> list[dict[str, float]]:  # noqa: ANN401  Artifact or None
    """Epochs of the training: dev UAR and loss."""
    if artifact is None or not (path := artifact.folder / "history.json").is_file():
        return []
    records = json.loads(path.read_text(encoding="utf-8"))
    return [
        {name: record[name] for name in ("epoch", "dev_uar", "loss") if name in record}
        for record in records
    ]


def _stage_costs(graph: Graph, store: StageStore, model: str) -> list[list[Any]]:
    """[name, key, seconds] of each; seconds None where a stage was not needed or is gone."""
    rows: list[list[Any]] = []
    for ref in graph.closure([MODELS[model]]):
        key = graph.key(ref)
        artifact = store.find(ref.stage, key)
        rows.append([ref.stage, key, None if artifact is None else artifact.seconds])
    return rows


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def stack_counts(
    outcomes: Mapping[tuple[str, int], Mapping[str, Any]],
    folds: Sequence[str],
    seeds: Sequence[int],
    speakers: Sequence[str],
) -> np.ndarray:
    """(S, J, G, C, C) of one arm's outcomes; a speaker that a fold does not judge has zeros."""
    first = next(iter(outcomes.values()))
    size = len(first["class_names"])
    counts = np.zeros((len(seeds), len(folds), len(speakers), size, size), np.int64)
    where = {name: i for i, name in enumerate(speakers)}
    for s, seed in enumerate(seeds):
        for j, fold in enumerate(folds):
            outcome = outcomes[fold, seed]
            own = [where[name] for name, _ in outcome["speakers"]]
            counts[s, j, own] = outcome["confusions"]
    return counts
