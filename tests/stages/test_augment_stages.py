"""Augmentation and balanced batches through the stages: other models, and the same features."""

from pathlib import Path

from safetensors.torch import load_file

from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.stages.catalogue import EXTRACTOR, STAGES, TEACHER, find_prefix
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore

NOISY = {"noise_snr_db": [5, 15], "speed": [0.9, 1.1]}


def test_changed_audio_and_balanced_batches_give_other_models_from_the_same_features(
    tiny: Experiment, tmp_path: Path
) -> None:
    store = StageStore(tmp_path)
    start = {"teacher.start": "extractor"}
    every = [
        start,
        {**start, "extractor.augment": NOISY, "teacher.stage2.augment": NOISY},
        {
            **start,
            **{f"{one}.fit.batches": "class_balanced" for one in ("extractor", "teacher.stage2")},
        },
    ]
    keys, weights = [], []
    for changes in every:
        experiment = build_experiment(tiny.model_dump(mode="json"), changes)
        graph = Graph(STAGES, experiment, read_folds(experiment.corpus, experiment.protocol)[0])
        artifacts, _ = graph.run([TEACHER], store, Compute(), Observer())
        models = {ref: artifacts[ref].folder / "model.safetensors" for ref in (EXTRACTOR, TEACHER)}
        keys.append([graph.key(find_prefix(experiment)), *map(graph.key, models)])
        weights.append(
            [load_file(path)["suffix.body.layers.0.layer_norm.bias"] for path in models.values()]
        )
    features, extractors, teachers = zip(*keys, strict=True)
    assert len(set(features)) == 1
    assert len(set(extractors)) == len(set(teachers)) == len(every)
    for model in range(2):
        found = [values[model] for values in weights]
        assert not any((found[i] == found[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))
