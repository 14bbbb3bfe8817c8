"""Folds by session, by official split and across corpora; and what may never be built."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.config import Corpus, Protocol
from serkd.corpora.folds import Fold, hash_folds
from serkd.corpora.manifest import Manifest, Utterance, make_manifest, write_manifest
from serkd.corpora.protocols import build_folds, describe_labels, read_corpus, read_folds
from serkd.errors import InputError, SealedError

EMOTIONS = ("angry", "happy", "sad")


def _utterance(
    speaker: str,
    emotion: str,
    *,
    corpus: str = "own",
    session: str = "",
    split: str = "",
    gender: str = "female",
    take: str = "",
) -> Utterance:
    utt_id = f"{speaker}-{emotion}{take}"
    return Utterance(
        utt_id, f"/{corpus}/{utt_id}.wav", corpus, speaker, gender, session, emotion, split, (),
        1.0, 16_000, 16_000, f"{corpus}{utt_id}",
    )  # fmt: skip


def _iemocap_like() -> Manifest:
    """Five sessions, each of a woman and a man."""
    return make_manifest(
        _utterance(
            f"Ses0{s}{letter}",
            emotion,
            session=str(s),
            gender="female" if letter == "F" else "male",
        )
        for s in range(1, 6)
        for letter in "FM"
        for emotion in EMOTIONS
    )


def _sessions(fold: Fold, part: str) -> set[str]:
    return {fold.manifest.by_id[utt_id].session for utt_id in fold.part(part)}


def test_leave_one_session_out_is_three_sessions_one_and_one_in_rotation() -> None:
    folds = build_folds(Protocol(name="leave_one_session_out"), _iemocap_like())
    rotation = [(_sessions(f, "dev"), _sessions(f, "test")) for f in folds]
    assert rotation == [
        ({"5"}, {"1"}),
        ({"1"}, {"2"}),
        ({"2"}, {"3"}),
        ({"3"}, {"4"}),
        ({"4"}, {"5"}),
    ]
    for fold in folds:
        assert len(_sessions(fold, "train")) == 3
        everyone = set(fold.train) | set(fold.dev) | set(fold.test)
        assert everyone == set(fold.manifest.by_id)


def test_leave_one_speaker_out_takes_dev_from_another_session_and_everyone_once() -> None:
    folds = build_folds(Protocol(name="leave_one_speaker_out"), _iemocap_like())
    assert len(folds) == 10
    tested = [fold.speakers("test").pop() for fold in folds]
    assert tested == sorted(tested) and len(set(tested)) == 10
    assert len({fold.speakers("dev").pop() for fold in folds}) == 10
    for fold in folds:
        assert len(fold.speakers("train")) == 8
        assert not _sessions(fold, "dev") & _sessions(fold, "test")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=3, max_size=9))
def test_a_dev_speaker_never_shares_the_test_speakers_session(sessions: Sequence[str]) -> None:
    manifest = make_manifest(
        _utterance(f"s{i}", emotion, session=session)
        for i, session in enumerate(sessions)
        for emotion in EMOTIONS
    )
    try:
        folds = build_folds(Protocol(name="leave_one_speaker_out"), manifest)
    except InputError as error:
        assert "dev speaker from another session" in str(error)
        assert len(set(sessions)) == 1 and "" not in sessions
        return
    assert [fold.speakers("test") for fold in folds] == [{f"s{i}"} for i in range(len(sessions))]
    for fold in folds:
        shared = _sessions(fold, "dev") & _sessions(fold, "test")
        assert not shared - {""}  # without a session, everybody was recorded alone


@pytest.mark.parametrize(
    ("sessions", "rule"),
    [
        (["1", "1", "2", "2"], "at least three sessions"),
        (["1", "2", "3", ""], "must know the session of every utterance, .* s3"),
    ],
)
def test_sessions_that_cannot_be_left_out_are_refused(sessions: list[str], rule: str) -> None:
    manifest = make_manifest(
        _utterance(f"s{i}", emotion, session=session)
        for i, session in enumerate(sessions)
        for emotion in EMOTIONS
    )
    with pytest.raises(InputError, match=rule):
        build_folds(Protocol(name="leave_one_session_out"), manifest)


def test_a_speaker_in_two_sessions_is_refused_by_name() -> None:
    rows = [*_iemocap_like().utterances]
    rows[0] = replace(rows[0], session="4")
    with pytest.raises(InputError, match="speak in one session, Ses01F does in 1, 4"):
        build_folds(Protocol(name="leave_one_session_out"), make_manifest(rows))


def _official(corpus: str = "own", *, shared: bool = False) -> Manifest:
    return make_manifest(
        _utterance(
            "Ross" if shared else f"s-{split}", emotion, corpus=corpus, split=split, take=split
        )
        for split in ("train", "dev", "test")
        for emotion in EMOTIONS
    )


def test_the_official_split_is_used_as_it_is() -> None:
    (fold,) = build_folds(Protocol(name="official"), _official())
    assert not fold.shares_speakers
    for part in ("train", "dev", "test"):
        assert {fold.manifest.by_id[utt_id].split for utt_id in fold.part(part)} == {part}
        assert len(fold.part(part)) == 3


def test_speakers_shared_by_an_official_split_are_refused_unless_the_corpus_is_made_so() -> None:
    with pytest.raises(InputError, match="train and dev must share no speaker, both have Ross"):
        build_folds(Protocol(name="official"), _official(shared=True))
    (fold,) = build_folds(Protocol(name="official"), _official("meld", shared=True))
    assert fold.shares_speakers
    with pytest.raises(InputError, match="at most the number of speakers = 1"):
        build_folds(Protocol(num_folds=3), _official("meld", shared=True))


def test_an_official_split_that_is_not_whole_is_refused() -> None:
    rows = _official().utterances
    no_dev = make_manifest(u for u in rows if u.split != "dev")
    with pytest.raises(InputError, match="it has none of dev"):
        build_folds(Protocol(name="official"), no_dev)
    unnamed = make_manifest([replace(rows[0], split=""), *rows[1:]])
    with pytest.raises(InputError, match=f"does not of 1: {rows[0].utt_id}"):
        build_folds(Protocol(name="official"), unnamed)


def _write_two_corpora(folder: Path) -> Corpus:
    """Speakers of the same names, emotions of other names, one emotion that only one has."""
    first = make_manifest(
        _utterance(f"0{i}", emotion, corpus="ravdess")
        for i in range(6)
        for emotion in ("angry", "happy", "sad", "calm")
    )
    second = make_manifest(
        _utterance(f"0{i}", emotion, corpus="iemocap")
        for i in range(2)
        for emotion in ("ang", "exc", "hap", "neu", "sad")
    )
    write_manifest(first, folder / "ravdess.parquet")
    write_manifest(second, folder / "other.parquet")
    # reading asks for three speakers, as any corpus must have
    third = make_manifest([*second.utterances, _utterance("02", "ang", corpus="iemocap")])
    write_manifest(third, folder / "iemocap.parquet")
    return Corpus(
        manifest=str(folder / "ravdess.parquet"), more_manifests=(str(folder / "iemocap.parquet"),)
    )


def test_across_corpora_only_shared_emotions_are_left_under_one_name(tmp_path: Path) -> None:
    corpus = _write_two_corpora(tmp_path)
    protocol = Protocol(name="cross_corpus", test_corpora=("iemocap",), num_folds=3)
    (fold,) = read_folds(corpus, protocol)
    whole = read_corpus(corpus, protocol)
    assert whole.class_names == ("angry", "happy", "sad")
    assert {whole.by_id[i].corpus for i in fold.test} == {"iemocap"}
    assert {whole.by_id[i].corpus for i in (*fold.train, *fold.dev)} == {"ravdess"}
    assert {whole.by_id[i].emotion for i in fold.test} == {"angry", "happy", "sad"}
    assert len(fold.test) == 7
    assert len(fold.speakers("dev")) == 2
    assert len(fold.speakers("train")) == 4
    # "01" of one corpus is not "01" of the other
    assert "ravdess/01" in {u.speaker_id for u in whole.utterances}
    with pytest.raises(SealedError):
        fold.manifest.labels(fold.test)


def test_across_corpora_every_emotion_is_told_of(tmp_path: Path) -> None:
    corpus = _write_two_corpora(tmp_path)
    protocol = Protocol(name="cross_corpus", test_corpora=("iemocap",), labels=("exc=happy",))
    assert describe_labels(corpus, protocol) == [
        "iemocap: ang (3) is angry",
        "iemocap: exc (2) is happy",
        "iemocap: hap (2) is happy",
        "iemocap: neu (2) is left out, the other side has none",
        "iemocap: sad (2) is sad",
        "ravdess: angry (6) is angry",
        "ravdess: calm (6) is left out, the other side has none",
        "ravdess: happy (6) is happy",
        "ravdess: sad (6) is sad",
    ]


def test_across_corpora_own_names_go_first(tmp_path: Path) -> None:
    corpus = _write_two_corpora(tmp_path)
    protocol = Protocol(
        name="cross_corpus", test_corpora=("iemocap",), labels=("exc=happy", "calm=neutral")
    )
    whole = read_corpus(corpus, protocol)
    assert whole.class_names == ("angry", "happy", "neutral", "sad")
    assert sum(u.emotion == "happy" and u.corpus == "iemocap" for u in whole.utterances) == 4


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            {"test_corpora": ("meld",)},
            r"name corpora of the manifests \(iemocap, ravdess\), got meld",
        ),
        ({"test_corpora": ("iemocap", "ravdess")}, "must leave a corpus to train on"),
        (
            {"test_corpora": ("iemocap",), "labels": ("angry=x", "happy=y")},
            "at least two emotions that training and test corpora share, got sad",
        ),
    ],
)
def test_corpora_that_cannot_be_crossed_are_refused(
    tmp_path: Path, changes: dict[str, tuple[str, ...]], rule: str
) -> None:
    corpus = _write_two_corpora(tmp_path)
    with pytest.raises(InputError, match=rule):
        read_folds(corpus, Protocol(name="cross_corpus", **changes))


def test_the_same_corpus_twice_is_refused(tmp_path: Path) -> None:
    corpus = _write_two_corpora(tmp_path)
    twice = Corpus(manifest=corpus.manifest, more_manifests=(corpus.manifest,))
    with pytest.raises(InputError, match="an utterance is in two"):
        read_folds(twice, Protocol())


def test_a_hash_of_folds_moves_with_any_utterance_and_not_with_their_order() -> None:
    manifest = _iemocap_like()
    folds = build_folds(Protocol(name="leave_one_session_out"), manifest)
    assert hash_folds(folds) == hash_folds(
        build_folds(
            Protocol(name="leave_one_session_out"), make_manifest(manifest.utterances[::-1])
        )
    )
    first = folds[0]
    moved = Fold("1", first.train[1:], first.dev, first.test, manifest)
    assert moved.split_hash != first.split_hash
    assert hash_folds([moved, *folds[1:]]) != hash_folds(folds)


def test_seeds_of_an_experiment_share_folds_and_seeds_of_a_protocol_do_not() -> None:
    manifest = make_manifest(_utterance(f"s{i:02d}", e) for i in range(12) for e in EMOTIONS)
    hashes = {hash_folds(build_folds(Protocol(seed=seed), manifest)) for seed in range(5)}
    assert len(hashes) == 5
