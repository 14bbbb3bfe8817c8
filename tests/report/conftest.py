"""One finished run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.events import Observer, Observers
from serkd.report.run import run_experiment
from serkd.report.tensorboard import TensorBoard
from serkd.stages.catalogue import STAGES, STUDENT, TEACHER_OUTPUTS
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.threads import set_threads


@dataclass(frozen=True)
class Run:
    """The tiny experiment on its first fold, run; copy the storage before changing anything."""

    storage: Path
    live: Path  # TensorBoard folder that was written while the stages ran
    folder: Path
    results: dict[str, Any]
    graph: Graph

    def artifact(self, stage: str) -> Path:
        (ref,) = (r for r in self.graph.closure([TEACHER_OUTPUTS, STUDENT]) if r.stage == stage)
        return StageStore(self.storage).folder(stage, self.graph.key(ref))


@pytest.fixture(scope="session")
def run(tiny: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Stages in this process first, so that the run only has to read them and needs no Ray."""
    set_threads(1)
    folder = tmp_path_factory.mktemp("run")
    graph = Graph(STAGES, tiny, read_folds(tiny.corpus, tiny.protocol)[0])
    board = TensorBoard(folder / "live")
    observer = Observers([board, Observer()])
    graph.run([TEACHER_OUTPUTS, STUDENT], StageStore(folder), Compute(), observer)
    board.close()
    results, written = run_experiment(tiny, "1", folder, "tiny", Observer())
    return Run(folder, folder / "live", written, results, graph)
