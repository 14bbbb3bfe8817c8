"""Inner folds: who is left out, and what they know."""

from collections import Counter
from dataclasses import replace

import pytest

from serkd.config import Protocol
from serkd.corpora.folds import Fold
from serkd.corpora.inner import build_inner_folds
from serkd.corpora.manifest import Manifest
from serkd.corpora.protocols import build_folds
from serkd.errors import InputError, SealedError


@pytest.fixture(scope="module")
def fold(manifest: Manifest) -> Fold:
    """Two women and two men in train."""
    return build_folds(Protocol(num_folds=6), manifest)[0]


def _left_out(fold: Fold, inner: Fold) -> set[str]:
    return fold.speakers("train") - inner.speakers("train")


@pytest.mark.parametrize("num_folds", [2, 3, 4])
def test_every_training_speaker_is_left_out_once(fold: Fold, num_folds: int) -> None:
    inner_folds = build_inner_folds(fold, num_folds)
    assert [inner.name for inner in inner_folds] == [f"1.{i + 1}" for i in range(num_folds)]
    counts = Counter(speaker for inner in inner_folds for speaker in _left_out(fold, inner))
    assert counts == Counter(fold.speakers("train"))
    for inner in inner_folds:
        assert inner.dev == fold.dev
        gone = [u for u in fold.train if u not in inner.train]
        assert {fold.manifest.by_id[u].speaker_id for u in gone} == _left_out(fold, inner)
        assert not {fold.manifest.by_id[u].speaker_id for u in gone} & inner.speakers("train")
        assert inner.train_hash != fold.train_hash


def test_groups_have_as_many_of_each_gender(fold: Fold) -> None:
    genders = {u.speaker_id: u.gender for u in fold.manifest.utterances}
    for inner in build_inner_folds(fold, 2):
        assert sorted(genders[s] for s in _left_out(fold, inner)) == ["female", "male"]


def test_an_inner_fold_knows_no_label_of_whom_it_leaves_out_nor_of_test(fold: Fold) -> None:
    for inner in build_inner_folds(fold, 2):
        for utt_id in {*fold.train, *fold.test} - {*inner.train}:
            assert inner.manifest.by_id[utt_id].emotion == ""
            with pytest.raises(SealedError):
                inner.manifest.labels([utt_id])
        assert len(inner.manifest.labels([*inner.train, *inner.dev]))


def test_labels_do_not_decide_who_is_left_out(fold: Fold) -> None:
    turned = {u.utt_id: u.emotion for u in fold.manifest.utterances if u.utt_id in fold.train}
    first = fold.train[0]
    turned[first] = "sad" if turned[first] != "sad" else "happy"
    rows = (replace(u, emotion=turned.get(u.utt_id, u.emotion)) for u in fold.manifest.utterances)
    changed = replace(fold, manifest=replace(fold.manifest, utterances=tuple(rows)))
    for before, after in zip(
        build_inner_folds(fold, 2), build_inner_folds(changed, 2), strict=True
    ):
        assert before.train == after.train


def test_more_folds_than_speakers_are_refused(fold: Fold) -> None:
    with pytest.raises(InputError, match=r"inner_folds must be at most .* = 4 in fold 1, got 5"):
        build_inner_folds(fold, 5)


def test_an_emotion_of_one_group_alone_is_refused(fold: Fold) -> None:
    only = next(iter(build_inner_folds(fold, 2))).test[-1]  # of a speaker that is left out
    rows = (
        replace(u, emotion="disgust" if u.utt_id == only else u.emotion)
        for u in fold.manifest.utterances
    )
    names = (*fold.manifest.class_names, "disgust")
    manifest = replace(fold.manifest, utterances=tuple(rows), class_names=names)
    with pytest.raises(InputError, match=r"fold 1\.1: train must have every emotion.* disgust"):
        build_inner_folds(replace(fold, manifest=manifest), 2)


def test_a_split_that_shares_speakers_has_inner_folds_that_leave_them_out(fold: Fold) -> None:
    """Whoever is left out of train may still speak in dev, as in the corpus's own split."""
    dev, *train = fold.train
    shared = replace(fold, train=tuple(train), dev=(dev,), shares_speakers=True)
    inner_folds = build_inner_folds(shared, 2)
    speaker = fold.manifest.by_id[dev].speaker_id
    assert sum(speaker in inner.speakers("train") for inner in inner_folds) == 1
    assert all(inner.dev == (dev,) for inner in inner_folds)
