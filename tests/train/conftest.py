"""The frames, units and teacher outputs of one fold, and the four tasks that learn from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.features.backbone import Backbone
from serkd.recipe import build_experiment
from serkd.stages.catalogue import LOGMEL, STAGES, STUDENT, TEACHER_OUTPUTS
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.store import Artifact, StageStore
from serkd.threads import set_threads
from serkd.train.data import FoldData
from serkd.train.loop import Task
from serkd.train.student import StudentTask, read_teacher
from serkd.train.teacher import EmotionTask, ExtractorTask, UnitsTask


@dataclass(frozen=True)
class Stored:
    """All artifacts of the tiny experiment's first fold; `build_task` makes its tasks."""

    experiment: Experiment
    fold: Fold
    backbone: Backbone
    artifacts: Mapping[Ref, Artifact]

    def data(self, ref: Ref, column: str) -> FoldData:
        fold = self.fold
        return FoldData(fold.manifest, fold.train, fold.dev, self.artifacts[ref].folder, column)

    def build_task(self, name: str, changes: Mapping[str, Any] | None = None) -> Callable[[], Task]:
        """A picklable task builder, with dotted config `changes`."""
        settings = build_experiment(self.experiment.model_dump(mode="json"), changes or {})
        seed, hidden = settings.seed, self.data(Ref("features", (0,)), "layer_0")
        if name == "student":
            return partial(
                StudentTask,
                self.data(LOGMEL, "logmel"),
                read_teacher(self.artifacts[TEACHER_OUTPUTS].folder),
                settings.student,
                settings.distill,
                settings.curriculum,
                settings.meta,
                seed,
                "cpu",
            )
        if name == "extractor":
            has_task, extractor = settings.units.gender_mode.has_task, settings.extractor
            return partial(
                ExtractorTask, hidden, self.backbone, 0, extractor, has_task, seed, "cpu"
            )
        if name == "teacher_units":
            scales = [ref for ref in self.artifacts if ref.stage == "units"]
            return partial(
                UnitsTask,
                hidden,
                [self.artifacts[ref].folder for ref in scales],
                [ref.scale[1] for ref in scales],
                self.backbone,
                0,
                settings.teacher.stage1,
                seed,
                "cpu",
            )
        assert name == "teacher"
        stage2 = settings.teacher.stage2
        return partial(EmotionTask, hidden, self.backbone, 0, None, stage2, seed, "cpu")


@pytest.fixture(scope="session")
def stored(tiny: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    set_threads(1)
    fold = read_folds(tiny.corpus, tiny.protocol)[0]
    graph = Graph(STAGES, tiny, fold)
    store = StageStore(tmp_path_factory.mktemp("stored"))
    artifacts, _ = graph.run([TEACHER_OUTPUTS, STUDENT], store, Compute(), Observer())
    return Stored(tiny, fold, graph.backbone, artifacts)
