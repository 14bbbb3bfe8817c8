"""The cells of an ablation as trials of the engine: each trains its model to the end."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serkd import runtime
from serkd.corpora.folds import Fold
from serkd.devices import choose_device
from serkd.errors import SweepError
from serkd.events import Observer, Observers
from serkd.search.capacity import count_slots, require_fit
from serkd.search.cells import Cell
from serkd.search.engine import Listener
from serkd.search.ledger import Ledger
from serkd.search.prepare import compute_first, is_stored
from serkd.search.proposals import Listed, Proposal
from serkd.search.reports import Reports
from serkd.search.runner import run_trials
from serkd.search.space import Resources
from serkd.stages.catalogue import MODELS, STAGES
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.store import Artifact, StageStore
from serkd.storage.mirror import name_storage, open_storage
from serkd.storage.sync import synced
from serkd.threads import set_threads
from serkd.train.metrics import compute_confusion, confusion_metric
from serkd.train.outputs import read_outputs

Watch = Callable[[Path, int], Observer]


def run_cells(
    folder: Path,
    cells: Sequence[Cell],
    folds: Mapping[str, Fold],
    resources: Resources,
    observer: Observer,
    *,
    arms: Mapping[str, str],
    watch: Watch,
    listeners: Sequence[Listener] = (),
) -> None:
    """Train the cells whose model is not stored, as many at a time as fit; those that failed too.

    `folder` is the ablation's; the caller holds its ledger's lock. `arms` says which arm a cell is
    of, by its name. `watch` makes an observer from the folder and a trial's number.

    Raises:
        InputError: a cell cannot fit the cluster.
        SweepError: all cells fail alike, the disk is full, or the user has stopped it.
    """
    storage = folder.resolve().parent.parent
    store, ledger = StageStore(storage), Ledger(folder / "ledger.jsonl")
    graphs = {cell.name: Graph(STAGES, cell.experiment, folds[cell.fold]) for cell in cells}
    refs = {cell.name: MODELS[cell.model] for cell in cells}
    missing = {
        name
        for name, graph in graphs.items()
        if store.find(refs[name].stage, graph.key(refs[name])) is None
    }
    _settle(ledger, set(graphs), missing)
    if not missing and not ledger.replay().pending():
        return
    runtime.start_ray()
    train = cells[0].experiment.train
    require_fit(resources, train)
    set_threads(resources.cpu)
    total = len(ledger.replay().ended()) + len(missing)
    ledger.append({"event": "opened", "time": time.time(), "total": total})
    asked = [(graphs[name], refs[name]) for name in graphs if name in missing]
    compute_first(_list_common(asked), store, choose_device(train.device), observer)
    replay = run_trials(
        folder,
        Listed([_propose(cell, arms) for cell in cells if cell.name in missing]),
        TrainCell(
            cells={cell.name: cell for cell in cells},
            folds=folds,
            storage=name_storage(storage),
            num_threads=resources.cpu,
            folder=folder.resolve().relative_to(storage).as_posix(),
            watch=watch,
        ),
        resources,
        partial(count_slots, resources, train),
        is_there=partial(is_stored, store),
        listeners=listeners,
    )
    if replay.stopped is not None:
        raise SweepError(f"{replay.stopped}; run the same command again to go on")


def _settle(ledger: Ledger, asked: set[str], missing: set[str]) -> None:
    """Bring the ledger in line with what is stored and with what is asked for now."""
    replay = ledger.replay()
    again = [t for t in replay.ended() if t.params["cell"] in missing]
    dropped = [t for t in replay.pending() if t.params["cell"] not in asked]
    records: list[dict[str, Any]] = [{"event": "again", "trial": t.number} for t in again]
    records += [
        {"event": "discarded", "trial": t.number, "reason": "not asked for any more"}
        for t in dropped
    ]
    for record in records:
        ledger.append({**record, "time": time.time()})


def _propose(cell: Cell, arms: Mapping[str, str]) -> Proposal:
    label = {"arm": arms[cell.name], "fold": cell.fold, "seed": cell.seed}
    return Proposal({"cell": cell.name}, label=label)


def _list_common(asked: Sequence[tuple[Graph, Ref]]) -> Iterator[tuple[Graph, list[Ref]]]:
    """Stages that several cells need and that learn nothing: frames of the whole corpus.

    What is trained is left to the trials, which train different ones side by side.
    """
    closures = [(graph, graph.closure([ref])) for graph, ref in asked]
    counts = Counter(graph.key(ref) for graph, refs in closures for ref in refs)
    for graph, refs in closures:
        common = [r for r in refs if STAGES[r.stage].fits == "none" and counts[graph.key(r)] > 1]
        if common:
            yield graph, common


class _Heard(Observer):
    """Tells the sweep of stages, and that there is progress."""

    def __init__(self, reports: Reports) -> None:
        self.reports, self.epochs = reports, 0

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        self.reports.stage(name, key, is_cached=is_cached, seconds=seconds)

    def progress(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        self.reports.beat()

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        self.epochs = int(record["epoch"])  # of the last stage that was trained
        self.reports.beat()


@dataclass(frozen=True)
class TrainCell:
    """What all trials of an ablation run; each is given the name of its cell.

    The folds come from the driver without a test label.
    """

    cells: Mapping[str, Cell]
    folds: Mapping[str, Fold]
    storage: str
    num_threads: int
    folder: str  # the ablation's, below the storage
    watch: Watch

    def __call__(self, number: int, params: Mapping[str, Any], reports: Reports) -> None:
        set_threads(self.num_threads)
        cell, storage = self.cells[params["cell"]], open_storage(self.storage)
        folder, ref, fold = storage / self.folder, MODELS[cell.model], self.folds[cell.fold]
        graph, heard = Graph(STAGES, cell.experiment, fold), _Heard(reports)
        graph.check([ref])
        # gives its slot back where another process computes what it needs
        compute = Compute(device=choose_device(cell.experiment.train.device), waits=False)
        try:
            # the watcher hears of an epoch first: a stopped trial does not return from a report
            watcher = self.watch(folder, number)
            with synced(folder / "events" / f"trial-{number:05d}"):
                store, observers = StageStore(storage), Observers([watcher, heard])
                found, _ = graph.run([ref], store, compute, observers)
                watcher.models({ref: found[ref]}, fold)
        finally:
            compute.close()
        value = measure_dev_uar(found[ref], fold)
        reports.step(heard.epochs, {"dev_uar": value}, is_held=True)


def measure_dev_uar(model: Artifact, fold: Fold) -> float:
    """Of a model's stored outputs: the mean recall of dev's classes, 0 to 1."""
    said = read_outputs(model.folder / "outputs.parquet").select(list(fold.dev)).logits
    index = {name: i for i, name in enumerate(fold.manifest.class_names)}
    labels = np.array([index[fold.manifest.by_id[utt_id].emotion] for utt_id in fold.dev])
    confusion = compute_confusion(labels, said.argmax(axis=1), len(index))
    return float(confusion_metric(confusion, "uar"))
