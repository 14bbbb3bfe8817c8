"""The table of folds: what each part holds, and what it shares with train."""

from dataclasses import replace

from serkd.config import Protocol
from serkd.corpora.manifest import Manifest, make_manifest
from serkd.corpora.protocols import build_folds
from serkd.report.corpus import describe_parts, folds_table


def _headers(manifest: Manifest, protocol: Protocol) -> list[str]:
    rows = describe_parts(manifest, build_folds(protocol, manifest))
    return [str(column.header) for column in folds_table(rows, "folds").columns]


def test_parts_are_counted_and_add_up(manifest: Manifest) -> None:
    protocol = Protocol(num_folds=3)
    rows = describe_parts(manifest, build_folds(protocol, manifest))
    assert [(row["fold"], row["part"]) for row in rows[:3]] == [
        ("1", "train"),
        ("1", "dev"),
        ("1", "test"),
    ]
    for fold in (rows[:3], rows[3:6], rows[6:]):
        assert sum(row["utterances"] for row in fold) == len(manifest.utterances)
        assert all(sum(row["classes"].values()) == row["utterances"] for row in fold)
    assert _headers(manifest, protocol)[5:] == list(manifest.class_names)


def test_samples_that_are_in_train_too_are_counted(manifest: Manifest) -> None:
    """A recording under two speakers' names gets into both sides of any protocol."""
    protocol = Protocol(num_folds=3)
    (fold, *_) = build_folds(protocol, manifest)
    same = manifest.by_id[fold.train[0]].sha256
    copies = {*fold.test[:2], fold.dev[0]}
    rows = [
        replace(u, sha256=same if u.utt_id in copies else u.sha256) for u in manifest.utterances
    ]
    leaking = make_manifest(rows)
    counts = [row["copies_of_train"] for row in describe_parts(leaking, [fold])]
    assert counts == [0, 1, 2]
    assert "copies\nof train" in _headers(leaking, protocol)


def test_brackets_in_names_of_emotions_are_no_markup(manifest: Manifest) -> None:
    named = [replace(u, emotion=f"[/{u.emotion}]") for u in manifest.utterances]
    assert "[/sad]" in _headers(make_manifest(named), Protocol(num_folds=3))
