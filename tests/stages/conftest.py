"""The tiny experiment as graphs over its folds, and one storage with all of its first fold."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from serkd.config import Experiment
from serkd.corpora.manifest import Manifest
from serkd.corpora.protocols import build_folds
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.stages.catalogue import STAGES, STUDENT, TEACHER_OUTPUTS
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.threads import set_threads

BuildGraph = Callable[..., Graph]


@pytest.fixture(scope="session")
def build_graph(tiny: Experiment, manifest: Manifest) -> BuildGraph:
    """Makes the graph of a fold (0, 1, 2) with dotted config changes or another manifest."""

    def build(
        changes: Mapping[str, Any] | None = None,
        *,
        fold: int = 0,
        changed_manifest: Manifest | None = None,
    ) -> Graph:
        experiment = build_experiment(tiny.model_dump(mode="json"), changes or {})
        # the folds are those of the unchanged experiment: keys must not depend on how they arose
        folds = build_folds(tiny.protocol, changed_manifest or manifest)
        return Graph(STAGES, experiment, folds[fold])

    return build


@pytest.fixture(scope="session")
def storage(build_graph: BuildGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage of the first fold; copy it before changing anything."""
    set_threads(1)
    folder = tmp_path_factory.mktemp("storage")
    build_graph().run([TEACHER_OUTPUTS, STUDENT], StageStore(folder), Compute(), Observer())
    return folder
