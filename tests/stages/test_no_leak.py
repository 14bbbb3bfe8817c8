"""A fold's teacher never meets a frame, a label or a statistic of dev or test speakers.

Their audio, emotions and genders are replaced, and every number that is fitted must stay what it
was, bit for bit. Every model is trained for one epoch, since choosing among epochs is what dev is
for. Recordings keep their lengths: frames are extracted in batches of utterances of similar length,
so another length can change the last bit of a float16 of whoever then shares a batch (a test of its
own bounds that).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from weights import ONE_EPOCH, Weights, find_moved, fit_weights

from serkd.config import Experiment
from serkd.corpora.build import Listing, SourceUtterance, build_manifest
from serkd.corpora.folds import Fold
from serkd.corpora.manifest import Manifest, Utterance
from serkd.corpora.protocols import build_folds
from serkd.events import Observer
from serkd.features.store import Frames, read_frames
from serkd.gender import GenderMode
from serkd.recipe import build_experiment
from serkd.stages.catalogue import STAGES
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.threads import set_threads

COUNTS: dict[str, object] = {
    "units.source": "backbone",
    "units.balanced": True,
    "units.max_points": 300,
    "teacher.stage1.frames": "all",
    "teacher.stage1.fit.batches": "class_balanced",
    "teacher.stage2.unit_weight": 0.1,
    "teacher.stage2.pooling": "attentive_statistics",
    "backbone.layer_mix": True,
}
STARTS: dict[str, dict[str, object]] = {
    **{f"units {mode}": {"units.gender_mode": str(mode)} for mode in GenderMode},
    "extractor": {"teacher.start": "extractor"},
    "backbone": {"teacher.start": "backbone"},
    "layers side by side, speeds": {
        "teacher.start": "backbone",
        "backbone.layer_mix": "concat",
        "teacher.stage2.augment.speed": [0.9, 1.0, 1.25],
    },
    "counts, classes weighted": {**COUNTS, "teacher.stage2.class_weights": "balanced"},
    "counts, classes balanced": {**COUNTS, "teacher.stage2.fit.batches": "class_balanced"},
    "inner folds": {"teacher.inner_folds": 2},
}


def _rewrite(
    manifest: Manifest,
    folder: Path,
    waves: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    rows: Callable[[Utterance], Utterance],
) -> Manifest:
    """The same corpus elsewhere, with other waveforms for some utterances, and other rows."""
    sources = []
    for utterance in map(rows, manifest.utterances):
        wave, rate = soundfile.read(utterance.path)
        change = waves.get(utterance.utt_id, lambda wave: wave)
        path = folder / f"{utterance.utt_id}.flac"
        soundfile.write(path, np.clip(change(wave), -0.99, 0.99), rate, subtype="PCM_16")
        sources.append(
            SourceUtterance(
                utterance.utt_id,
                path,
                utterance.corpus,
                utterance.speaker_id,
                utterance.gender,
                utterance.session,
                utterance.emotion,
            )
        )
    return build_manifest(Listing(sources))


def _next(utterance: Utterance, class_names: tuple[str, ...]) -> Utterance:
    """With another emotion and another gender."""
    emotion = class_names[(class_names.index(utterance.emotion) + 1) % len(class_names)]
    gender = {"female": "male", "male": "female"}[utterance.gender]
    return replace(utterance, emotion=emotion, gender=gender)


def _noise(seed: int, shortest: float = 1.0) -> Callable[[np.ndarray], np.ndarray]:
    """Mostly noise, at another gain, and down to a share of the length."""

    def change(wave: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(seed)
        kept = wave[: int(len(wave) * rng.uniform(shortest, 1.0))]
        return 0.2 * kept + rng.normal(0.0, rng.uniform(0.05, 0.4), len(kept))

    return change


@pytest.fixture(scope="module")
def fold(tiny: Experiment, manifest: Manifest) -> Fold:
    set_threads(1)
    return build_folds(tiny.protocol, manifest)[0]


def _change_others(manifest: Manifest, fold: Fold, folder: Path, shortest: float = 1.0) -> Fold:
    """The same utterances are train; everything else of the corpus is something else."""
    names, others = manifest.class_names, (*fold.dev, *fold.test)
    noise = {utt_id: _noise(i, shortest) for i, utt_id in enumerate(others)}
    changed = _rewrite(
        manifest, folder, noise, lambda u: _next(u, names) if u.utt_id in others else u
    )
    return replace(fold, manifest=changed)


@pytest.fixture(scope="module")
def others_changed(
    manifest: Manifest, fold: Fold, tmp_path_factory: pytest.TempPathFactory
) -> Fold:
    return _change_others(manifest, fold, tmp_path_factory.mktemp("others"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageStore]:
    """One for each corpus: what the parametrised experiments share is computed once in each."""
    return {n: StageStore(tmp_path_factory.mktemp(n)) for n in ("before", "after", "train")}


def _fit(tiny: Experiment, fold: Fold, store: StageStore, name: str) -> dict[str, Weights]:
    return fit_weights(tiny, STARTS[name], fold, store)


@pytest.mark.parametrize("name", STARTS)
def test_who_is_not_in_train_moves_no_bit_of_what_is_fitted(
    tiny: Experiment, fold: Fold, others_changed: Fold, stores: dict[str, StageStore], name: str
) -> None:
    before = _fit(tiny, fold, stores["before"], name)
    after = _fit(tiny, others_changed, stores["after"], name)
    assert find_moved(before, after) == set()


def _features(tiny: Experiment, fold: Fold, store: StageStore) -> Frames:
    experiment = build_experiment(tiny.model_dump(mode="json"), ONE_EPOCH)
    graph, ref = Graph(STAGES, experiment, fold), Ref("features", (0,))
    artifacts, _ = graph.run([ref], store, Compute(), Observer())
    return read_frames(artifacts[ref].folder, "layer_0")


def test_who_is_not_in_train_was_really_changed(
    tiny: Experiment, fold: Fold, others_changed: Fold, stores: dict[str, StageStore]
) -> None:
    """Else the test above would prove nothing."""
    before = _features(tiny, fold, stores["before"])
    after = _features(tiny, others_changed, stores["after"])
    for utt_id in (*fold.dev, *fold.test):
        assert not np.allclose(*(f.select([utt_id]).values for f in (before, after)), atol=0.1)
    labels = [one.manifest.labels(fold.dev) for one in (fold, others_changed)]
    assert not np.any(np.equal(*labels))
    genders = [[u.gender for u in one.manifest.utterances] for one in (fold, others_changed)]
    assert np.equal(*genders).sum() == len(fold.train)


def test_other_lengths_move_a_frame_of_train_by_rounding_and_no_more(
    tiny: Experiment,
    manifest: Manifest,
    fold: Fold,
    stores: dict[str, StageStore],
    tmp_path: Path,
) -> None:
    shorter = _change_others(manifest, fold, tmp_path, shortest=0.6)
    before = _features(tiny, fold, stores["before"]).select(fold.train).values.astype(np.float64)
    after = _features(tiny, shorter, StageStore(tmp_path)).select(fold.train).values
    step = np.spacing(np.abs(before).astype(np.float16)).astype(np.float64)
    assert np.all(np.abs(after - before) <= np.maximum(step, 1e-5))
    assert np.mean(after != before) < 0.01


@pytest.mark.parametrize("what", ["audio", "emotion", "gender"])
def test_one_training_utterance_moves_all_that_learns_from_it(
    tiny: Experiment,
    fold: Fold,
    manifest: Manifest,
    stores: dict[str, StageStore],
    tmp_path: Path,
    what: str,
) -> None:
    """So the test above can fail."""
    mine, names = fold.train[0], manifest.class_names

    speaker = manifest.by_id[mine].speaker_id

    def change(utterance: Utterance) -> Utterance:
        # a speaker has one gender
        is_meant = speaker == utterance.speaker_id if what == "gender" else mine == utterance.utt_id
        if what == "audio" or not is_meant:
            return utterance
        return replace(utterance, **{what: getattr(_next(utterance, names), what)})

    waves = {mine: _noise(0)} if what == "audio" else {}
    changed = replace(fold, manifest=_rewrite(manifest, tmp_path, waves, change))
    before = _fit(tiny, fold, stores["before"], "units mtl")
    assert find_moved(before, _fit(tiny, changed, stores["train"], "units mtl")) == set(before)
    for start in ("extractor", "backbone"):
        before = _fit(tiny, fold, stores["before"], start)
        moved = find_moved(before, _fit(tiny, changed, stores["train"], start))
        # nothing after the extractor learns gender
        assert moved == (set() if what == "gender" and start == "backbone" else set(before))
