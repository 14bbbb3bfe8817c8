"""The frames, units and teacher outputs of one fold, and the four tasks that learn from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.features.backbone import Backbone
from serkd.models.trunk import Trunk
from serkd.recipe import build_experiment
from serkd.stages.catalogue import LOGMEL, STAGE_1, STAGES, STUDENT, TEACHER_HIDDEN, TEACHER_OUTPUTS
from serkd.stages.context import Compute, Ref
from serkd.stages.frames import read_part
from serkd.stages.graph import Graph
from serkd.stages.store import Artifact, StageStore
from serkd.threads import set_threads
from serkd.train.data import FoldData
from serkd.train.stored_teacher import StoredTop, read_teacher
from serkd.train.student import StudentTask
from serkd.train.task import Task
from serkd.train.teacher import EmotionTask, ExtractorTask, UnitsTask
from serkd.train.units import KeptUnits, UnitScale

SPEEDS = {0.9: Ref("speeds", (900, 0)), 1.25: Ref("speeds", (1250, 0))}


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

    def scales(self, settings: Experiment) -> list[UnitScale]:
        """What stage 1 predicts."""
        refs = [ref for ref in self.artifacts if ref.stage == "units"]
        weights = settings.teacher.stage1.scale_weights or [1.0] * len(refs)
        return [
            UnitScale(*ref.scale, ref.scale[1], weight, self.artifacts[ref].folder)
            for ref, weight in zip(refs, weights, strict=True)
        ]

    def speeds(self, settings: Experiment) -> dict[float, Path]:
        """The folders of what training draws from, with the audio as it is."""
        asked = settings.teacher.stage2.augment.stored_speeds
        return {speed: self.artifacts[SPEEDS[speed]].folder for speed in asked}

    def build_task(self, name: str, changes: Mapping[str, Any] | None = None) -> Callable[[], Task]:
        """A picklable task builder, with dotted config `changes`."""
        settings = build_experiment(self.experiment.model_dump(mode="json"), changes or {})
        seed = settings.seed
        hidden = replace(self.data(Ref("features", (0,)), "layer_0"), speeds=self.speeds(settings))
        used = settings.backbone
        trunk = Trunk(self.backbone, 0, used.layer_mix, used.lora, used.precision)
        if name == "student":
            top = None
            if settings.meta.has_live_layers:
                top = StoredTop(self.artifacts[TEACHER_HIDDEN].folder, self.backbone)
            return partial(
                StudentTask,
                self.data(LOGMEL, "logmel"),
                read_teacher(self.artifacts[TEACHER_OUTPUTS].folder, top),
                settings.student,
                settings.distill,
                settings.curriculum,
                settings.meta,
                seed,
                "cpu",
            )
        if name == "extractor":
            has_task, extractor = settings.units.gender_mode.has_task, settings.extractor
            return partial(ExtractorTask, hidden, trunk, extractor, has_task, seed, "cpu")
        if name == "teacher_units":
            return partial(
                UnitsTask,
                hidden,
                self.scales(settings),
                trunk,
                settings.teacher.stage1,
                seed,
                "cpu",
            )
        assert name == "teacher"
        stage2, kept = settings.teacher.stage2, None
        if stage2.unit_weight:
            stage_1 = self.artifacts[STAGE_1].folder / "model.safetensors"
            kept = KeptUnits(self.scales(settings), read_part(stage_1, "heads"))
        return partial(EmotionTask, hidden, trunk, None, stage2, seed, "cpu", kept)


@pytest.fixture(scope="session")
def stored(tiny: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    set_threads(1)
    fold = read_folds(tiny.corpus, tiny.protocol)[0]
    graph = Graph(STAGES, tiny, fold)
    store = StageStore(tmp_path_factory.mktemp("stored"))
    artifacts, _ = graph.run(
        [TEACHER_OUTPUTS, TEACHER_HIDDEN, STUDENT, *SPEEDS.values()], store, Compute(), Observer()
    )
    return Stored(tiny, fold, graph.backbone, artifacts)
