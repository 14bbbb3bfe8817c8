"""What labels, speakers and splits say: which of it is an error, and majority scores."""

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serkd.corpora.composition import check_composition, compute_agreement, compute_majority
from serkd.corpora.findings import Finding
from serkd.corpora.manifest import Utterance, make_manifest
from serkd.train.metrics import compute_confusion, compute_metrics

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_MELD = _SHARED / "data" / "splits" / "meld"


def _utterance(utt_id: str, **changes: object) -> Utterance:
    plain = Utterance(
        utt_id=utt_id, path=f"/nowhere/{utt_id}.wav", corpus="own", speaker_id=utt_id[0],
        gender="female", session="", emotion="angry", split="", votes=(), duration_s=1.0,
        num_samples=16_000, sample_rate=16_000, sha256=utt_id,
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def _of_kind(findings: Sequence[Finding], kind: str) -> list[Finding]:
    return [finding for finding in findings if finding.kind == kind]


@pytest.mark.parametrize(("corpus", "level"), [("own", "error"), ("meld", "warning")])
def test_only_meld_may_share_speakers_between_splits(corpus: str, level: str) -> None:
    rows = [
        _utterance(f"{speaker}{split}", corpus=corpus, split=split)
        for speaker in "abc"
        for split in ("train", "dev", "test")
        if (speaker, split) != ("c", "dev")
    ]
    findings = _of_kind(check_composition(make_manifest(rows)), "speaker_in_splits")
    assert {finding.level for finding in findings} == {level}
    assert {utt_id for finding in findings for utt_id in finding.utt_ids} == {
        row.utt_id for row in rows
    }


@pytest.mark.parametrize(("split", "level"), [("train", "error"), ("dev", "warning")])
def test_an_emotion_must_be_trained_and_should_be_scored(split: str, level: str) -> None:
    rows = [
        _utterance(f"{speaker}-{emotion}", split=part, emotion=emotion)
        for speaker, part in (("a", "train"), ("b", "dev"), ("c", "test"))
        for emotion in ("angry", "sad")
        if (part, emotion) != (split, "sad")
    ]
    (finding,) = _of_kind(check_composition(make_manifest(rows)), "missing_class")
    assert (finding.level, "sad" in finding.message) == (level, True)


@pytest.mark.parametrize("seed", range(5))
def test_majority_scores_are_those_of_a_constant_prediction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names, splits = np.array(["angry", "happy", "sad"]), np.array(["train", "dev", "test"])
    rows = [
        _utterance(f"u{i}", emotion=str(rng.choice(names)), split=str(rng.choice(splits)))
        for i in range(30)
    ]
    manifest = make_manifest(rows)
    for majority in compute_majority(manifest):
        part = [u.utt_id for u in manifest.utterances if u.split == majority.part]
        labels = np.array(manifest.labels(part))
        constant = np.full(len(part), manifest.class_names.index(majority.emotion))
        expected = compute_metrics(compute_confusion(labels, constant, len(names)))
        for name in ("war", "uar", "wf1"):
            assert getattr(majority, name) == pytest.approx(expected[name])


@pytest.mark.real
@pytest.mark.skipif(not _MELD.is_dir(), reason="SERKD_REAL_DATA holds no real data")
def test_majority_on_meld_is_the_published_one() -> None:
    rows = []
    for split in ("train", "dev", "test"):
        with (_MELD / f"{split}_sent_emo.csv").open(encoding="utf-8") as file:
            rows += [
                _utterance(f"{split}{i}", split=split, emotion=row["Emotion"])
                for i, row in enumerate(csv.DictReader(file))
            ]
    scores = {found.part: found for found in compute_majority(make_manifest(rows))}
    test = scores["test"]
    assert test.emotion == "neutral"
    found = [round(100 * value, 2) for value in (test.war, test.wf1, test.uar)]
    assert found == [48.12, 31.27, 14.29]


def test_excitement_counts_as_happiness_where_it_is_no_class() -> None:
    rows = [
        _utterance("a", emotion="hap", votes=(("exc", 2), ("hap", 1), ("neu", 1))),
        _utterance("b", emotion="hap", votes=(("hap", 1), ("neu", 2))),
        _utterance("c", emotion="neu", votes=(("neu", 1), ("oth", 1))),
    ]
    merged = make_manifest(rows)
    (finding,) = _of_kind(check_composition(merged), "label_against_votes")
    assert finding.utt_ids == ("b",)
    assert compute_agreement(merged) == pytest.approx({"hap": (3 / 4 + 1 / 3) / 2, "neu": 1 / 2})
    apart = make_manifest([*rows, _utterance("d", emotion="exc", votes=(("exc", 3),))])
    (finding,) = _of_kind(check_composition(apart), "label_against_votes")
    assert finding.utt_ids == ("a", "b")


@pytest.mark.parametrize(
    ("first", "second", "is_alike"),
    [
        ("J\u00f6rg", "Jo\u0308rg", True),  # two ways to encode an umlaut
        ("Sad", "sad", True),
        ("Ses_01", "ses 1", True),
        ("01", "1", True),
        ("1_1", "11", False),
        ("10", "1", False),
        ("s100", "s10", False),
        ("No. 1", "No. 2", False),
    ],
)
@pytest.mark.parametrize("name", ["speaker_id", "emotion"])
def test_names_that_differ_in_spelling_only_are_a_warning(
    first: str, second: str, is_alike: bool, name: str
) -> None:
    rows = [_utterance("a", **{name: first}), _utterance("b", **{name: second}), _utterance("c")]
    kind = {"speaker_id": "speakers_alike", "emotion": "emotions_alike"}[name]
    found = _of_kind(check_composition(make_manifest(rows)), kind)
    assert [(f.level, f.utt_ids) for f in found] == [("warning", ("a", "b"))] * is_alike


def test_numbers_of_speakers_of_two_corpora_are_not_compared() -> None:
    rows = [_utterance("a", speaker_id="01"), _utterance("b", speaker_id="1", corpus="other")]
    assert not _of_kind(check_composition(make_manifest(rows)), "speakers_alike")
