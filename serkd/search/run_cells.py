"""Cells one after the other in this process."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from serkd import runtime
from serkd.corpora.folds import Fold
from serkd.devices import choose_device
from serkd.events import Observer
from serkd.search.cells import Cell
from serkd.search.ledger import Ledger
from serkd.search.space import Resources
from serkd.stages.catalogue import MODELS, STAGES
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.threads import set_threads


def run_cells(
    folder: Path,
    cells: Sequence[Cell],
    folds: Mapping[str, Fold],
    model: str,
    store: StageStore,
    resources: Resources,
    observer: Observer,
) -> None:
    ledger = Ledger(folder / "ledger.jsonl")
    graphs = {cell.name: Graph(STAGES, cell.experiment, folds[cell.fold]) for cell in cells}
    ref = MODELS[model]
    missing = [cell for cell in cells if store.find(ref.stage, graphs[cell.name].key(ref)) is None]
    if not missing:
        return
    runtime.start_ray()
    set_threads(resources.cpu)
    for number, cell in enumerate(missing):
        observer.progress("cells", number, len(missing), "cells")
        actors = runtime.cluster_actors(is_shared=store.mirror is None)
        compute = Compute(*actors, device=choose_device("auto"))
        try:
            graphs[cell.name].check([ref])
            graphs[cell.name].run([ref], store, compute, observer)
            record = {"state": "finished"}
        except Exception as error:
            record = {"state": "failed", "reason": f"{type(error).__name__}: {error}"}
        finally:
            compute.close()
        ledger.append({"trial": cell.name, "time": time.time(), **record})
