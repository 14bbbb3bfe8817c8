"""Where the outcomes of an ablation's cells come from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.events import Observer
from serkd.report.boards import Boards, watch_trial
from serkd.report.outcome import read_outcome
from serkd.report.results import dev_labels
from serkd.report.sweep import Progress
from serkd.search.cell_trials import run_cells
from serkd.search.cells import Cell
from serkd.search.footprint import measure_cost
from serkd.search.ledger import Ledger
from serkd.search.space import Resources
from serkd.stages.catalogue import MODELS, STAGES
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore


class Source(Protocol):
    """Where outcomes of cells come from."""

    def compute(self, cells: Sequence[Cell], arms: Mapping[str, str]) -> None:
        """Run those that are not there; one that fails is in the ledger with its reason.

        `arms` are the names of the cells' arms, by their own.

        Raises:
            SweepError: it has stopped before their end.
        """

    def outcome(self, cell: Cell) -> dict[str, Any] | None:
        """See `read_outcome`; None while there is none."""

    def key(self, cell: Cell) -> str:
        """The content key of the cell's model, on the corpus as it is now."""

    def cost(self, experiment: Experiment) -> Mapping[str, float | None]:
        """See `measure_cost`; None where nothing is known."""


class Trained:
    """Cells that are trained by the search engine, into the storage's stages."""

    def __init__(
        self,
        folder: Path,
        folds: Sequence[Fold],
        model: str,
        resources: Resources,
        observer: Observer,
    ) -> None:
        self.folder, self.model, self.observer = folder, model, observer
        self.resources = resources
        self.folds = {fold.name: fold for fold in folds}
        self.labels = {fold.name: dev_labels(fold) for fold in folds}
        self.store = StageStore(folder.resolve().parent.parent)

    def compute(self, cells: Sequence[Cell], arms: Mapping[str, str]) -> None:
        replay = Ledger(self.folder / "ledger.jsonl").replay()
        known = {trial.params["cell"] for trial in replay.current()}
        total = len(known | {cell.name for cell in cells})
        run_cells(
            self.folder,
            cells,
            self.folds,
            self.resources,
            self.observer,
            arms=arms,
            watch=watch_trial,
            listeners=[Boards(self.folder, replay), Progress(total, self.observer)],
        )

    def outcome(self, cell: Cell) -> dict[str, Any] | None:
        fold, labels = self.folds[cell.fold], self.labels[cell.fold]
        return read_outcome(cell, fold, self.store, labels)

    def key(self, cell: Cell) -> str:
        return Graph(STAGES, cell.experiment, self.folds[cell.fold]).key(MODELS[cell.model])

    def cost(self, experiment: Experiment) -> Mapping[str, float | None]:
        if self.model != "student":
            return {"macs": None, "latency_ms": None}
        first = next(iter(self.folds.values()))
        return measure_cost(experiment, len(first.manifest.class_names))
