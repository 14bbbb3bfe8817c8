"""All numbers that are fitted on the way to a teacher, and which of them differ."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from safetensors.numpy import load_file

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.stages.catalogue import STAGES, TEACHER
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore

# choosing among epochs is what dev is for
ONE_EPOCH = {
    f"{section}.fit.epochs": 1 for section in ("extractor", "teacher.stage1", "teacher.stage2")
}
FITTED = {"extractor", "centroids", "teacher_units", "teacher"}
Weights = dict[str, np.ndarray]


def fit_weights(
    base: Experiment, changes: Mapping[str, object], fold: Fold, store: StageStore
) -> dict[str, Weights]:
    """Every file of fitted numbers, by stage; those of inner folds too, where there are any."""
    experiment = build_experiment(base.model_dump(mode="json"), {**ONE_EPOCH, **changes})
    graph = Graph(STAGES, experiment, fold)
    inner = [replace(TEACHER, inner=i + 1) for i in range(experiment.teacher.inner_folds)]
    graph.run([TEACHER, *inner], store, Compute(), Observer())
    return {
        str(ref): {
            f"{path.name} {key}": value
            for path in store.folder(ref.stage, graph.key(ref)).glob("*.safetensors")
            for key, value in load_file(path).items()
        }
        for ref in graph.closure([TEACHER, *inner])
        if ref.stage in FITTED
    }


def find_moved(before: Mapping[str, Weights], after: Mapping[str, Weights]) -> set[str]:
    """The stages of which any bit is another."""
    assert before.keys() == after.keys()
    for stage, weights in before.items():
        assert weights.keys() == after[stage].keys()
        assert weights
    return {
        stage
        for stage, weights in before.items()
        if any(not np.array_equal(value, after[stage][name]) for name, value in weights.items())
    }
