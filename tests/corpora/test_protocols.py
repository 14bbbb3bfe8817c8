"""Folds of any corpus: disjoint speakers, full coverage, gender balance; given folds checked."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.config import Protocol
from serkd.corpora.folds import Fold, select_folds
from serkd.corpora.manifest import GENDERS, Manifest, Utterance
from serkd.corpora.protocols import balanced_groups, build_folds
from serkd.errors import InputError, SealedError

EMOTIONS = ("angry", "happy", "sad")


def _make_manifest(genders: Sequence[str], takes: Sequence[int] | None = None) -> Manifest:
    """Speakers s00, s01, ... who say every emotion `takes` times."""
    rows = [
        Utterance(
            f"{emotion}-{take}-{i:02d}", "/none.wav", "own", f"s{i:02d}", gender, "", emotion, "",
            (), 1.0, 16_000, 16_000, f"{i}{emotion}{take}",
        )
        for i, gender in enumerate(genders)
        for emotion in EMOTIONS
        for take in range(takes[i] if takes else 1)
    ]  # fmt: skip
    return Manifest(tuple(sorted(rows, key=lambda u: u.utt_id)), EMOTIONS)


def _speakers(manifest: Manifest, utt_ids: Sequence[str]) -> set[str]:
    return {manifest.by_id[utt_id].speaker_id for utt_id in utt_ids}


def _check_partition(folds: Sequence[Fold], manifest: Manifest) -> None:
    everyone = Counter(u.utt_id for u in manifest.utterances)
    for fold in folds:
        # equal multisets: nothing is lost, nothing is twice, in any part
        assert Counter([*fold.train, *fold.dev, *fold.test]) == everyone
        train, dev, test = (_speakers(manifest, p) for p in (fold.train, fold.dev, fold.test))
        assert not (train & dev or train & test or dev & test)
        assert train and dev and test
    assert Counter(utt_id for fold in folds for utt_id in fold.test) == everyone
    assert Counter(utt_id for fold in folds for utt_id in fold.dev) == everyone


@st.composite
def _corpora(draw: st.DrawFn) -> Manifest:
    genders = draw(st.lists(st.sampled_from(GENDERS), min_size=3, max_size=14))
    count = len(genders)
    return _make_manifest(
        genders, draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), manifest=_corpora(), seed=st.integers(0, 2**32))
def test_speaker_kfold_partitions_any_corpus(
    data: st.DataObject, manifest: Manifest, seed: int
) -> None:
    genders = {u.speaker_id: u.gender for u in manifest.utterances}
    num_folds = data.draw(st.integers(3, len(genders)))
    folds = build_folds(Protocol(num_folds=num_folds, seed=seed), manifest)
    assert len(folds) == num_folds
    _check_partition(folds, manifest)
    for gender in GENDERS:
        counts = [
            sum(genders[s] == gender for s in _speakers(manifest, fold.test)) for fold in folds
        ]
        assert max(counts) - min(counts) <= 1
    sizes = [len(_speakers(manifest, fold.test)) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=50, deadline=None)
@given(manifest=_corpora(), seed=st.integers(0, 2**32))
def test_leave_one_speaker_out_tests_each_speaker_alone(manifest: Manifest, seed: int) -> None:
    folds = build_folds(Protocol(name="leave_one_speaker_out"), manifest)
    _check_partition(folds, manifest)
    assert all(len(_speakers(manifest, fold.test)) == 1 for fold in folds)
    assert all(len(_speakers(manifest, fold.dev)) == 1 for fold in folds)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), manifest=_corpora())
def test_given_folds_are_used_as_they_are(data: st.DataObject, manifest: Manifest) -> None:
    speakers = data.draw(st.permutations(sorted({u.speaker_id for u in manifest.utterances})))
    cuts = data.draw(st.integers(3, len(speakers)))
    given_folds = tuple(tuple(speakers[i::cuts]) for i in range(cuts))
    folds = build_folds(Protocol(folds=given_folds), manifest)
    _check_partition(folds, manifest)
    assert [_speakers(manifest, fold.test) for fold in folds] == [set(g) for g in given_folds]
    # the model of a fold is chosen on the fold before it
    before = [set(given_folds[i - 1]) for i in range(cuts)]
    assert [_speakers(manifest, fold.dev) for fold in folds] == before


@settings(max_examples=50, deadline=None)
@given(data=st.data(), count=st.integers(3, 20), seed=st.integers(0, 2**32))
def test_groups_depend_on_the_seed_and_not_on_the_order(
    data: st.DataObject, count: int, seed: int
) -> None:
    genders = {f"s{i}": GENDERS[i % 3] for i in range(count)}
    shuffled = dict(data.draw(st.permutations(list(genders.items()))))
    assert balanced_groups(genders, 3, seed) == balanced_groups(shuffled, 3, seed)


def test_other_seeds_give_other_folds() -> None:
    genders = {f"s{i:02d}": GENDERS[i % 2] for i in range(12)}
    seen = {str(balanced_groups(genders, 4, seed)) for seed in range(10)}
    assert len(seen) == 10  # of (6!)^2 deals, two equal ones would be a coincidence of 1e-4


@pytest.fixture
def six() -> Manifest:
    return _make_manifest(["female", "male"] * 3)


def _ids(manifest: Manifest, *speakers: str) -> tuple[str, ...]:
    return tuple(u.utt_id for u in manifest.utterances if u.speaker_id in speakers)


@pytest.mark.parametrize(
    ("train", "dev", "test", "rule"),
    [
        (("s00", "s01"), ("s01",), ("s02",), "train and dev must share no speaker, both have s01"),
        (("s00", "s02"), ("s01",), ("s02",), "train and test must share no speaker, both have s02"),
        (("s00",), ("s01", "s03"), ("s03",), "dev and test must share no speaker, both have s03"),
    ],
)
def test_a_speaker_on_two_sides_is_refused_by_name(
    six: Manifest, train: tuple[str, ...], dev: tuple[str, ...], test: tuple[str, ...], rule: str
) -> None:
    with pytest.raises(InputError, match=f"fold 7: {rule}"):
        Fold("7", _ids(six, *train), _ids(six, *dev), _ids(six, *test), six)


def test_one_shared_utterance_is_enough_to_be_refused(six: Manifest) -> None:
    one = _ids(six, "s05")[:1]
    with pytest.raises(InputError, match="both have s05"):
        Fold("1", (*_ids(six, "s00", "s01"), *one), _ids(six, "s02"), _ids(six, "s05")[1:], six)


def test_empty_parts_and_missing_emotions_are_refused(six: Manifest) -> None:
    with pytest.raises(InputError, match="fold 1: dev must not be empty"):
        Fold("1", _ids(six, "s00"), (), _ids(six, "s01"), six)
    no_sad = tuple(i for i in _ids(six, "s00") if six.by_id[i].emotion != "sad")
    with pytest.raises(InputError, match="train must have every emotion, it has no sad"):
        Fold("1", no_sad, _ids(six, "s01"), _ids(six, "s02"), six)


def test_a_fold_hides_its_test_labels(six: Manifest) -> None:
    for fold in build_folds(Protocol(num_folds=3), six):
        for utt_id in fold.test:
            assert fold.manifest.by_id[utt_id].emotion == ""
            with pytest.raises(SealedError):
                fold.manifest.labels([utt_id])
        seen = [*fold.train, *fold.dev]
        assert fold.manifest.labels(seen) == six.labels(seen)


def test_train_and_dev_hashes_ignore_test_labels(six: Manifest) -> None:
    fold = build_folds(Protocol(num_folds=3), six)[0]
    assert fold.manifest.label_hash(fold.train) == fold.train_hash
    assert fold.manifest.label_hash(fold.dev) == fold.dev_hash
    hashes = {f.train_hash for f in build_folds(Protocol(num_folds=3), six)}
    assert len(hashes) == 3


def test_all_problems_of_given_folds_are_reported_at_once(six: Manifest) -> None:
    folds = (("s00", "s01"), ("s02", "s00"), ("s03", "nobody"))
    with pytest.raises(InputError) as refused:
        build_folds(Protocol(folds=folds), six)
    message = str(refused.value)
    assert "repeated: s00\n" in message
    assert "unknown: nobody (it has s00, s01, s02, s03, s04, s05)" in message
    assert "missing: s04, s05" in message


def test_too_few_or_empty_folds_are_refused(six: Manifest) -> None:
    with pytest.raises(InputError, match="at least three folds, got 2"):
        build_folds(Protocol(folds=(("s00", "s01", "s02"), ("s03", "s04", "s05"))), six)
    with pytest.raises(InputError, match="must not be empty"):
        folds = (("s00", "s01", "s02"), ("s03", "s04", "s05"), ())
        build_folds(Protocol(folds=folds), six)
    with pytest.raises(InputError, match="at most the number of speakers = 6, got 7"):
        build_folds(Protocol(num_folds=7), six)


def test_choosing_folds(six: Manifest) -> None:
    folds = build_folds(Protocol(num_folds=3), six)
    assert select_folds(folds, "all") == folds
    assert select_folds(folds, "2") == [folds[1]]
    with pytest.raises(InputError, match="--fold must be one of 1, 2, 3 or all, got '99'"):
        select_folds(folds, "99")
