"""The sealed evaluation: what ``serkd test`` does to one run, or to one trial of a sweep."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkd.config import Experiment
from serkd.corpora.folds import hash_folds, select_folds
from serkd.corpora.protocols import read_folds
from serkd.corpora.seal import open_seal
from serkd.errors import InputError
from serkd.files import write_json
from serkd.recipe import build_experiment
from serkd.report.plots import draw_pooled, save_figure
from serkd.report.predictions import predictions_table, write_predictions
from serkd.report.results import evaluate, is_run, pool_folds, read_json, read_run
from serkd.report.run import show_metrics
from serkd.report.tensorboard import TensorBoard
from serkd.search.ledger import Ledger
from serkd.stages.catalogue import MODELS, STAGES, find_models
from serkd.stages.context import Ref
from serkd.stages.graph import Graph
from serkd.stages.store import Artifact, StageStore
from serkd.storage.sync import synced


@dataclass(frozen=True)
class Chosen:
    """What of a run or sweep is evaluated: `models` of an experiment."""

    experiment: Experiment
    folds: tuple[str, ...]  # names, or "all" alone
    text: str
    models: tuple[str, ...]


def open_test(folder: Path, trial: int | None) -> dict[str, Any]:
    """Evaluate a run, or a sweep's trial (the best one on dev by default), on the test split.

    The look is written to STORAGE/test_log.jsonl before a label is read. Nothing is computed:
    the models must be stored. Writes test.json, test_predictions.parquet and confusion_test.png.

    Raises:
        InputError: not a run's or sweep's folder, no such finished trial, or no stored models.
    """
    with synced(folder):
        return _open_test(folder, trial)


def _open_test(folder: Path, trial: int | None) -> dict[str, Any]:
    chosen = _choose(folder, trial)
    storage, experiment = folder.resolve().parent.parent, chosen.experiment
    all_folds = read_folds(experiment.corpus, experiment.protocol)
    folds = [fold for name in chosen.folds for fold in select_folds(all_folds, name)]
    store, graphs = StageStore(storage), [Graph(STAGES, experiment, fold) for fold in folds]
    models = {graph.fold.name: _find_models(graph, store, chosen, folder) for graph in graphs}
    last = MODELS[chosen.models[-1]]
    keys = {name: found[last].info["key"] for name, found in models.items()}
    subject = f"{folder.resolve().parent.name}/{folder.resolve().name}"
    emotions, look = open_seal(
        storage / "test_log.jsonl",
        subject,
        chosen.text,
        experiment.corpus,
        experiment.protocol,
        folds,
        keys,
        folder / "test.json",
    )
    class_names = folds[0].manifest.class_names
    labels = {fold.name: {i: emotions[i] for i in fold.test} for fold in folds}
    found = {name: evaluate(models[name], labels[name], class_names, "test") for name in labels}
    parts = [predictions_table(models[fold.name], fold, labels[fold.name]) for fold in folds]
    write_predictions(folder, "test", experiment, all_folds, parts)
    results = {
        "name": folder.resolve().name,
        "split": "test",
        "chosen": chosen.text,
        "models": list(chosen.models),
        "look": {"number": look.number, "text": look.text},
        "look_digest": look.digest,
        "protocol": experiment.protocol.name,
        "folds_hash": hash_folds(all_folds),
        "shares_speakers": any(fold.shares_speakers for fold in folds),
        "class_names": list(class_names),
        "folds": found,
        "pooled": pool_folds(found, "test"),
    }
    _write(results, folder)
    return results


def _write(results: Mapping[str, Any], folder: Path) -> None:
    write_json(folder / "test.json", results)
    save_figure(draw_pooled(results), folder / "confusion_test.png")
    for name, found in results["folds"].items():
        board = TensorBoard(folder / "tensorboard" / f"fold_{name}_test")
        show_metrics(board, found, "test", results["class_names"])
        board.close()


def choose_experiment(folder: Path, trial: int | None) -> Experiment:
    """Of a run, or of a sweep's trial, the best one by default.

    Raises:
        InputError: neither, or no such finished trial.
    """
    return _choose(folder, trial).experiment


def _choose(folder: Path, trial: int | None) -> Chosen:
    if is_run(folder):
        if trial is not None:
            raise InputError(f"--trial must be left out: {folder} is a run, not a sweep")
        run = read_run(folder)
        choice = run.results["fold_choice"]
        return Chosen(run.experiment, (choice,), f"fold {choice}", run.models)
    if (folder / "sweep.json").is_file():
        return _choose_trial(folder, trial)
    raise InputError(
        f"{folder}: must be a folder that `serkd run`, `serkd teacher` or `serkd sweep` finished"
    )


def _choose_trial(folder: Path, number: int | None) -> Chosen:
    """A pruned trial published no student, so only finished ones can be chosen."""
    sweep = read_json(folder / "sweep.json")
    trials = Ledger(folder / "ledger.jsonl").trials()
    finished = {t["trial"]: t for t in trials if t["state"] == "finished"}
    if not finished:
        raise InputError(f"{folder}: must have a finished trial, it has none")
    best = max(finished.values(), key=lambda trial: trial["value"])["trial"]
    number = best if number is None else number
    if number not in finished:
        raise InputError(
            f"--trial must be a finished trial ({', '.join(map(str, sorted(finished)))}), "
            f"got {number}"
        )
    base = build_experiment(sweep["base"], {}, origin=str(folder / "sweep.json"))
    text, settings = f"trial {number}", dict(finished[number]["params"])
    if seeds := sweep["space"].get("seeds"):
        # the first: a look at each would choose among them by what it sees
        settings["seed"] = seeds[0]
        text += f", seed {seeds[0]} of {len(seeds)}"
    experiment = build_experiment(base.model_dump(mode="json"), settings, origin="trial")
    choice = sweep["space"]["folds"]
    folds = ("all",) if choice == "all" else tuple(choice)
    return Chosen(experiment, folds, text, find_models(experiment))


def _find_models(
    graph: Graph, store: StageStore, chosen: Chosen, folder: Path
) -> dict[Ref, Artifact]:
    """The stored outputs of a fold's models."""
    found, missing = {}, []
    for model in chosen.models:
        ref = MODELS[model]
        if artifact := store.find(ref.stage, graph.key(ref)):
            artifact.require_fold(graph.fold)
            found[ref] = artifact
        else:
            missing.append(model)
    if missing:
        raise InputError(
            f"{folder}: the {' and '.join(missing)} of fold {graph.fold.name} must be stored, but "
            "the corpus, the backbone or serkd itself has changed since, or it was removed: run "
            "it again"
        )
    return found
