"""Training frames from changed audio: the stored ones where nothing changes, and never for dev."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from steps import compute_terms

from serkd import config
from serkd.corpora.audio import Cut
from serkd.corpora.manifest import Utterance
from serkd.errors import InputError
from serkd.events import Observer
from serkd.features.backbone import Backbone
from serkd.features.encoders import PrefixEncoder
from serkd.stages.context import Ref
from serkd.train import waveforms
from serkd.train.data import FoldData
from serkd.train.launch import train
from serkd.train.source import MemorySource, Padded
from serkd.train.waveforms import WaveformSource
from serkd.train.workers import Workers

PLAN = [np.array([3, 0, 7, 1]), np.array([5]), np.array([2, 4, 6])]
NONE = config.Augment()
_WHOLE = Cut()


class Fixture(Protocol):
    """The part of the `stored` fixture that is used here."""

    backbone: Backbone

    def data(self, ref: Ref, column: str) -> FoldData: ...

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Any]: ...


@pytest.fixture
def data(stored: Fixture) -> FoldData:
    return stored.data(Ref("features", (0,)), "layer_0")


def _utterances(data: FoldData) -> list[Utterance]:
    return [data.manifest.by_id[utt_id] for utt_id in data.train_ids]


def _source(
    stored: Fixture,
    data: FoldData,
    settings: config.Augment,
    utterances: Sequence[Utterance] | None = None,
    *,
    cut: Cut = _WHOLE,
    seed: int = 0,
    cache_gb: float = 1.0,
) -> WaveformSource:
    return WaveformSource(
        MemorySource(data.frames),
        _utterances(data) if utterances is None else utterances,
        PrefixEncoder(stored.backbone, 0, "cpu"),
        settings,
        cut,
        seed,
        cache_gb,
    )


def _bytes(batches: Sequence[Padded]) -> list[bytes]:
    return [batch.frames.numpy().tobytes() + batch.mask.numpy().tobytes() for batch in batches]


def test_unchanged_audio_has_the_stored_frames_in_the_order_of_the_plan(
    stored: Fixture, data: FoldData
) -> None:
    source = _source(stored, data, NONE)
    found = list(source.load(PLAN, 0))
    expected = list(MemorySource(data.frames).load(PLAN, 0))
    np.testing.assert_array_equal(source.lengths, data.frames.lengths)
    assert len(found) == len(PLAN)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs.mask)
        gap = (ours.frames - theirs.frames).square().mean().sqrt()
        assert gap <= 1e-3 * theirs.frames.square().mean().sqrt()


def test_evaluation_reads_stored_frames_and_no_audio(stored: Fixture, data: FoldData) -> None:
    gone = [replace(utterance, path="/nowhere.wav") for utterance in _utterances(data)]
    source = _source(stored, data, config.Augment(speed=(2.0,)), gone)
    plan = [np.array([len(data.utt_ids) - 1, 0]), np.array([2])]
    expected = MemorySource(data.frames).load(plan, None)
    assert _bytes(list(source.load(plan, None))) == _bytes(list(expected))


def test_speed_changes_the_number_of_frames_and_the_mask_with_it(
    stored: Fixture, data: FoldData
) -> None:
    for factor in (0.5, 1.25):
        source = _source(stored, data, config.Augment(speed=(factor,)))
        for index, batch in zip(PLAN, source.load(PLAN, 0), strict=True):
            lengths = batch.mask.sum(dim=1).numpy()
            assert np.abs(lengths - data.frames.lengths[index] / factor).max() <= 2
            assert (lengths <= source.lengths[index] + 2).all()
            assert batch.frames.shape[1] == lengths.max()
            assert not batch.frames[~batch.mask].any()


def test_slow_speech_is_cut_where_long_speech_is(stored: Fixture, data: FoldData) -> None:
    source = _source(stored, data, config.Augment(speed=(0.5,)), cut=Cut(1.0))
    (batch,) = source.load(PLAN[:1], 0)
    assert batch.mask.sum(dim=1).tolist() == [49] * 4  # as an utterance of a second has


def test_every_epoch_and_seed_draws_anew_and_the_same_again(
    stored: Fixture, data: FoldData
) -> None:
    settings = config.Augment(noise_snr_db=(5.0, 20.0), speed=(0.9, 1.0, 1.1))
    runs = [(0, 0), (0, 1), (1, 0)]
    found = [_bytes(list(_source(stored, data, settings, seed=s).load(PLAN, e))) for s, e in runs]
    assert len({tuple(batches) for batches in found}) == len(runs)
    # what an utterance becomes does not depend on the batches before it, nor on what is kept
    again = _source(stored, data, settings, cache_gb=1e-9)
    assert _bytes(list(again.load(PLAN[1:2], 1)))[0] == found[1][1]


def test_audio_is_decoded_once_and_kept_within_bounds(
    stored: Fixture, data: FoldData, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    read = waveforms.read_waveform

    def count(utterance: Utterance, cut: Cut) -> np.ndarray:
        decoded.append(utterance.utt_id)
        return read(utterance, cut)

    monkeypatch.setattr(waveforms, "read_waveform", count)
    source = _source(stored, data, NONE)
    for epoch in range(3):
        list(source.load(PLAN, epoch))
    assert sorted(decoded) == sorted(data.train_ids[i] for batch in PLAN for i in batch)

    limit = 150_000
    bounded = _source(stored, data, NONE, cache_gb=limit / 1e9)
    assert _bytes(list(bounded.load(PLAN, 0))) == _bytes(list(source.load(PLAN, 0)))
    kept = sum(waveform.nbytes for waveform in bounded.audio.kept.values())
    assert 0 < kept <= limit


def test_a_missing_and_a_changed_file_are_named(
    stored: Fixture, data: FoldData, tmp_path: Path
) -> None:
    utterances = _utterances(data)
    gone = [*utterances[:5], replace(utterances[5], path="/nowhere.wav"), *utterances[6:]]
    with pytest.raises(InputError, match=r"/nowhere\.wav: must be an audio file, but there is"):
        list(_source(stored, data, NONE, gone).load(PLAN, 0))
    other = [*utterances[:5], replace(utterances[5], path=utterances[6].path), *utterances[6:]]
    with pytest.raises(InputError, match="must be the audio that the manifest describes"):
        list(_source(stored, data, NONE, other).load(PLAN, 0))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    torn = [*utterances[:5], replace(utterances[5], path=str(broken)), *utterances[6:]]
    with pytest.raises(InputError, match=r"broken\.wav: must be readable audio"):
        list(_source(stored, data, NONE, torn).load(PLAN, 0))


@pytest.mark.parametrize("name", ["extractor", "teacher"])
def test_a_task_trains_on_changed_audio_and_is_judged_and_scaled_by_stored_frames(
    stored: Fixture, name: str
) -> None:
    section = {"extractor": "extractor", "teacher": "teacher.stage2"}[name]
    settings = {f"{section}.augment": {"noise_snr_db": [5, 15], "speed": [0.9, 1.1]}}
    plain = stored.build_task(name)()
    task = pickle.loads(pickle.dumps(stored.build_task(name, settings)))()
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, task.model.state_dict()[key])
    assert task.evaluate(Workers()) == plain.evaluate(Workers())
    index = np.arange(8)
    values = [
        sum(float(term.total.detach()) for term in compute_terms(one, index).values())
        for one in (plain, task, task)
    ]
    assert values[0] != values[1] == values[2]


@pytest.mark.slow
def test_a_file_that_a_worker_cannot_read_is_named_to_the_user(
    stored: Fixture, ray_cluster: None, tmp_path: Path
) -> None:
    build = stored.build_task("teacher", {"teacher.stage2.augment": {"noise_snr_db": [5, 15]}})
    assert isinstance(build, partial)
    data, *others = build.args
    one = data.manifest.by_id[data.train_ids[0]]
    utterances = [u for u in data.manifest.utterances if u is not one]
    manifest = replace(data.manifest, utterances=(*utterances, replace(one, path="/nowhere.wav")))
    settings = config.Train(num_workers=2)
    task = partial(build.func, replace(data, manifest=manifest, train=settings), *others)
    with pytest.raises(InputError, match=r"/nowhere\.wav: must be an audio file, but there is"):
        train("teacher", task, tmp_path, settings, Observer())
