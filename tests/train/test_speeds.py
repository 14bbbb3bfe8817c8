"""Stored frames at other speeds: what would be computed in every step, computed once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from serkd import config
from serkd.config import Experiment
from serkd.corpora.audio import Cut
from serkd.corpora.protocols import read_folds
from serkd.features.backbone import Backbone
from serkd.features.cache import find_frames
from serkd.features.encoders import PrefixEncoder
from serkd.recipe import build_experiment
from serkd.stages.catalogue import STAGES
from serkd.stages.context import Ref
from serkd.stages.graph import Graph
from serkd.stages.store import Artifact
from serkd.train.data import FoldData
from serkd.train.source import MemorySource, Padded
from serkd.train.speeds import SpeedSource
from serkd.train.stream import StreamedSource
from serkd.train.waveforms import WaveformSource

SPEEDS = (0.9, 1.0, 1.25)
STORED = {0.9: Ref("speeds", (900, 0)), 1.25: Ref("speeds", (1250, 0))}
PLAN = [np.array([3, 0, 7, 1]), np.array([5]), np.array([2, 4, 6])]


class Fixture(Protocol):
    """The part of the `stored` fixture that is used here."""

    backbone: Backbone
    artifacts: Mapping[Ref, Artifact]

    def data(self, ref: Ref, column: str) -> FoldData: ...


@pytest.fixture
def folders(stored: Fixture) -> dict[float, Path]:
    """What the stages of two speeds write."""
    return {speed: stored.artifacts[ref].folder for speed, ref in STORED.items()}


@pytest.fixture
def data(stored: Fixture) -> FoldData:
    return stored.data(Ref("features", (0,)), "layer_0")


def _source(data: FoldData, folders: dict[float, Path], seed: int = 0) -> SpeedSource:
    at_speeds = {
        speed: MemorySource(find_frames(folder, "layer_0", data.train_ids).read())
        for speed, folder in folders.items()
    }
    return SpeedSource(MemorySource(data.frames), at_speeds, SPEEDS, seed)


def _bytes(batches: Sequence[Padded]) -> list[bytes]:
    return [batch.frames.numpy().tobytes() + batch.mask.numpy().tobytes() for batch in batches]


@pytest.mark.parametrize("epoch", [0, 1])
def test_frames_are_those_of_audio_that_is_changed_in_every_step(
    stored: Fixture, data: FoldData, folders: dict[float, Path], epoch: int
) -> None:
    utterances = [data.manifest.by_id[utt_id] for utt_id in data.train_ids]
    reference = WaveformSource(
        MemorySource(data.frames),
        utterances,
        PrefixEncoder(stored.backbone, 0, "cpu"),
        config.Augment(speed=SPEEDS),
        Cut(),
        0,
        1.0,
    )
    source = _source(data, folders)
    found, expected = source.load(PLAN, epoch), reference.load(PLAN, epoch)
    for index, ours, theirs in zip(PLAN, found, expected, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        gap = (ours.frames - theirs.frames).square().mean().sqrt()
        assert gap <= 1e-3 * theirs.frames.square().mean().sqrt()
        assert (ours.mask.sum(dim=1).numpy() <= source.lengths[index]).all()


def test_every_epoch_and_seed_draws_anew_and_an_utterance_does_not_depend_on_others(
    data: FoldData, folders: dict[float, Path]
) -> None:
    runs = [(0, 0), (0, 1), (1, 0)]
    found = [_bytes(list(_source(data, folders, s).load(PLAN, e))) for s, e in runs]
    assert len({tuple(batches) for batches in found}) == len(runs)
    # a resumed run draws what the other drew
    assert _bytes(list(_source(data, folders).load(PLAN[1:2], 1))) == found[1][1:2]


def test_evaluation_reads_audio_as_it_is(data: FoldData, folders: dict[float, Path]) -> None:
    plan = [np.array([len(data.utt_ids) - 1, 0]), np.array([2])]
    expected = MemorySource(data.frames).load(plan, None)
    assert _bytes(list(_source(data, folders).load(plan, None))) == _bytes(list(expected))


@pytest.mark.slow
def test_streamed_frames_are_those_in_memory(
    data: FoldData, folders: dict[float, Path], ray_cluster: None
) -> None:
    streamed = SpeedSource(
        MemorySource(data.frames),
        {
            speed: StreamedSource(find_frames(folder, "layer_0", data.train_ids), 1.0)
            for speed, folder in folders.items()
        },
        SPEEDS,
        0,
    )
    expected = _source(data, folders).load(PLAN, 0)
    assert _bytes(list(streamed.load(PLAN, 0))) == _bytes(list(expected))


def test_speeds_are_shared_by_folds_models_and_seeds_and_noise_needs_none(
    tiny: Experiment,
) -> None:
    changes = {
        "teacher.start": "extractor",
        "extractor.augment.speed": [0.9, 1.0, 1.25],
        "teacher.stage2.augment.speed": [1.25, 1.0, 0.9],
    }
    keys = []
    for seed, fold in ((0, 0), (1, 1)):
        settings = build_experiment(tiny.model_dump(mode="json"), {**changes, "seed": seed})
        graph = Graph(STAGES, settings, read_folds(settings.corpus, settings.protocol)[fold])
        needed = [ref for ref in graph.closure([Ref("teacher")]) if ref.stage == "speeds"]
        assert sorted(needed, key=str) == sorted(STORED.values(), key=str)
        keys.append({graph.key(ref) for ref in needed})
    assert keys[0] == keys[1]
    noisy = {**changes, "teacher.stage2.augment.noise_snr_db": [5, 15], "teacher.start": "backbone"}
    settings = build_experiment(tiny.model_dump(mode="json"), noisy)
    graph = Graph(STAGES, settings, read_folds(settings.corpus, settings.protocol)[0])
    assert not [ref for ref in graph.closure([Ref("teacher")]) if ref.stage == "speeds"]
