"""MELD: tables and clips of an invented part of the release, and what is wrong with some."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from meld_release import FOLDERS, Row, clip_path, write_release, write_table
from mp4 import tones, write_mp4

from serkd.corpora.build import Limits, Listing, build_manifest
from serkd.corpora.meld import scan
from serkd.errors import InputError

_ROWS: dict[str, Sequence[Row]] = {
    "train": [
        ("Chandler", "joy", "positive", 0, 0),
        ("Rachel", "surprise", "negative", 0, 1),
        ("Joey and Ross", "neutral", "neutral", 3, 0),
        ("Phoebe", "fear", "negative", 125, 3),
    ],
    "dev": [("Monica", "anger", "negative", 0, 0), ("Ross", "sadness", "negative", 110, 7)],
    "test": [("Joey", "disgust", "negative", 0, 0), ("Gunther", "neutral", "neutral", 125, 3)],
}


@pytest.fixture
def invented(tmp_path: Path) -> Path:
    """Eight rows and a WAV for each, with the decoys of the release."""
    root = write_release(tmp_path / "MELD.Raw", _ROWS)
    for decoy in ("final_videos_testdia0_utt0", "._dia0_utt0", "dia9_utt9x"):
        clip_path(root, "test", decoy, ".mp4").write_bytes(b"\x00\x05\x16\x07")
    return root


def _scan(root: Path, labels: str = "emotion") -> Listing:
    return scan(root, root.parent / "meld-audio", labels, allow_missing=True)


def test_rows_become_utterances_of_their_split(invented: Path) -> None:
    listing = _scan(invented)
    found = {source.utt_id: source for source in listing.sources}
    assert [*found] == [
        *("train_dia0_utt0", "train_dia0_utt1", "train_dia3_utt0", "dev_dia0_utt0"),
        *("test_dia0_utt0", "test_dia125_utt3"),
    ]
    assert [(s.speaker_id, s.gender, s.emotion) for s in found.values()] == [
        ("Chandler", "male", "joy"),
        ("Rachel", "female", "surprise"),
        ("Joey and Ross", "unknown", "neutral"),
        ("Monica", "female", "anger"),
        ("Joey", "male", "disgust"),
        ("Gunther", "unknown", "neutral"),
    ]
    assert [s.session for s in listing.sources][-1] == "test_dia125"
    assert all(s.utt_id.startswith(f"{s.split}_") and s.path.is_file() for s in listing.sources)
    assert listing.excluded == [
        "train_dia125_utt3: its clip is broken in the release",
        "dev_dia110_utt7: its clip is broken in the release",
    ]
    feelings = {source.utt_id: source.emotion for source in _scan(invented, "sentiment").sources}
    assert feelings["train_dia0_utt0"] == "positive" and feelings["test_dia0_utt0"] == "negative"


def test_plain_names_of_folders_links_and_loops(invented: Path, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    for split, folder in (("train", "Train"), ("dev", "wav/dev"), ("test", "test/16k")):
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (root / folder).symlink_to(invented / FOLDERS[split])
        write_table(root / "csv" / f"{split}_sent_emo.csv", _ROWS[split])
    (root / "wav" / "dev" / "loop").symlink_to(root)
    assert len(_scan(root).sources) == 6


@pytest.mark.parametrize("endings", [(".mp4", ".wav"), (".mp4", ".FLAC", ".wav")])
def test_the_best_of_several_files_is_taken(invented: Path, endings: Sequence[str]) -> None:
    for ending in endings[:-1]:
        clip_path(invented, "dev", "dia0_utt0", ending).touch()
    found = {source.utt_id: source.path for source in _scan(invented).sources}
    assert found["dev_dia0_utt0"].suffix == endings[-1 if len(endings) == 2 else 1]


def test_two_clips_for_an_utterance_are_refused(invented: Path) -> None:
    copy = invented / "copy" / "dev" / "dia0_utt0.wav"
    copy.parent.mkdir(parents=True)
    copy.touch()
    with pytest.raises(InputError, match=r"dev_dia0_utt0 must be one clip, found .* and "):
        _scan(invented)


def _use_mp4(root: Path, split: str, name: str, pcm: np.ndarray | None, layout: str) -> Path:
    clip_path(root, split, name).unlink()
    write_mp4(clip_path(root, split, name, ".mp4"), pcm, layout)
    return clip_path(root, split, name, ".mp4")


def test_the_sound_of_mp4_is_extracted_once(invented: Path) -> None:
    pytest.importorskip("av")
    clip = _use_mp4(invented, "train", "dia0_utt0", tones(6), "5.1")
    _use_mp4(invented, "test", "dia0_utt0", tones(1), "mono")
    told: list[tuple[int, int]] = []
    # inside the folder that is searched, where a second run must not take it for the release's
    folder = invented / "meld-audio"
    listing = scan(invented, folder, allow_missing=True, progress=lambda *done: told.append(done))
    flac = folder / "train" / "dia0_utt0.flac"
    assert told == [(1, 2), (2, 2)]
    assert {s.utt_id: s.path for s in listing.sources}["train_dia0_utt0"] == flac
    assert len(build_manifest(listing).utterances) == 6
    written = flac.stat().st_mtime_ns
    assert scan(invented, folder, allow_missing=True) == listing
    assert flac.stat().st_mtime_ns == written
    os.utime(clip, ns=(written + 10**9, written + 10**9))
    assert scan(invented, folder, allow_missing=True) == listing
    assert flac.stat().st_mtime_ns > written
    clip.unlink()  # to save space
    assert scan(invented, folder, allow_missing=True) == listing


def test_broken_clips_are_bad_audio(invented: Path) -> None:
    pytest.importorskip("av")
    whole = _use_mp4(invented, "train", "dia0_utt0", tones(1), "mono")
    whole.write_bytes(whole.read_bytes()[:-100])
    silent = _use_mp4(invented, "dev", "dia0_utt0", None, "mono")
    clip_path(invented, "test", "dia0_utt0").write_bytes(b"not audio")
    listing = _scan(invented)
    bad = [f"train_dia0_utt0: {whole}: must be whole", f"dev_dia0_utt0: {silent}: must have sound"]
    assert [line.partition(",")[0] for line in listing.bad] == [
        bad[0],
        f"{bad[1]}",
    ]
    with pytest.raises(InputError) as refused:
        build_manifest(listing)
    for expected in (*bad, "dia0_utt0.wav: must be readable audio", "--on-bad exclude"):
        assert expected in str(refused.value)
    manifest = build_manifest(listing, on_bad="exclude")
    assert [*manifest.by_id] == ["test_dia125_utt3", "train_dia0_utt1", "train_dia3_utt0"]
    assert len(manifest.excluded) == 2 + 3


def test_no_decoder_is_told_before_any_work(
    invented: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_path(invented, "train", "dia0_utt0").rename(
        clip_path(invented, "train", "dia0_utt0", ".mp4")
    )
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(invented))
    with pytest.raises(InputError, match=r"pip install 'serkd\[video\]'"):
        _scan(invented)
    assert not (invented.parent / "meld-audio").exists()


def test_durations_bound_train_and_what_nothing_can_use_is_left_out(invented: Path) -> None:
    for split in ("train", "dev"):
        soundfile.write(clip_path(invented, split, "dia0_utt0"), np.ones(1_024) / 9, 16_000)
    soundfile.write(clip_path(invented, "train", "dia0_utt1"), np.ones(16_000 * 31) / 9, 16_000)
    soundfile.write(clip_path(invented, "test", "dia0_utt0"), np.ones(16_000 * 31) / 9, 16_000)
    manifest = build_manifest(_scan(invented), limits=Limits(0.1, 30.0))
    assert [*manifest.by_id] == ["test_dia0_utt0", "test_dia125_utt3", "train_dia3_utt0"]
    assert len(manifest.excluded) == 2 + 3
    with pytest.raises(InputError, match=r"must last at least 0.1 s"):
        build_manifest(_scan(invented))


def test_an_incomplete_release_names_all_that_differs(invented: Path) -> None:
    with pytest.raises(InputError) as refused:
        scan(invented, invented / "audio")
    for expected in (
        "MELD's train must have rows 9989, found 4",
        "MELD's train must have emotion joy 1743, found 1",
        "MELD's test must have sentiment negative 833, found 1",
        "--allow-missing",
    ):
        assert expected in str(refused.value)
    (invented / "dev_sent_emo.csv").unlink()
    with pytest.raises(InputError, match=r"must hold dev_sent_emo.csv"):
        scan(invented, invented / "audio")
    clip = clip_path(invented, "train", "dia0_utt1")
    clip.unlink()
    clip.mkdir()  # a folder is no clip
    listing = _scan(invented)
    assert len(listing.sources) == 4 and "train_dia0_utt1: no clip" in listing.excluded


def _rewrite(invented: Path, **changes: str) -> None:
    row = {"speaker": "Ross", "emotion": "joy", "sentiment": "positive", "dia": "5", "utt": "6"}
    values = [*(row | changes).values()]
    path = invented / "dev_sent_emo.csv"
    write_table(path, [*_ROWS["dev"], (*values,)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emotion": "happy"}, r"line 4: Emotion must be one of neutral, .* fear, got 'happy'"),
        (
            {"sentiment": ""},
            r"line 4: Sentiment must be one of neutral, positive, negative, got ''",
        ),
        ({"dia": "-1"}, "line 4: Dialogue_ID must be a whole number, got '-1'"),
        ({"utt": "²"}, "line 4: Utterance_ID must be a whole number, got '²'"),
        ({"speaker": "  "}, "line 4: Speaker must not be empty"),
        ({"extra": "more"}, "line 4: must have no more fields than the header"),
        ({"dia": "0", "utt": "0"}, r"line 4: dev_dia0_utt0 is repeated \(first: .*line 2\)"),
    ],
)
def test_wrong_rows_are_named(invented: Path, changes: dict[str, str], message: str) -> None:
    _rewrite(invented, **changes)
    with pytest.raises(InputError, match=message) as refused:
        _scan(invented)
    assert len(str(refused.value).splitlines()) == 1


def test_wrong_tables_are_refused(invented: Path) -> None:
    path = invented / "dev_sent_emo.csv"
    write_table(path, _ROWS["dev"], encoding="cp1252")
    with pytest.raises(InputError, match=r"dev_sent_emo.csv: must be CSV in UTF-8: "):
        _scan(invented)
    path.write_text("Utterance,Speaker,Emotion\nHi,Ross,joy\n", encoding="utf-8")
    with pytest.raises(InputError, match="it lacks Sentiment, Dialogue_ID, Utterance_ID"):
        _scan(invented)
    write_table(path, _ROWS["dev"])
    write_table(invented / "old" / path.name, _ROWS["dev"][:1])
    with pytest.raises(InputError, match=r"must hold one dev_sent_emo.csv, they differ: "):
        _scan(invented)


def test_other_folders_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: must be the folder of MELD"):
        scan(tmp_path / "nowhere", tmp_path)
    with pytest.raises(InputError, match=r"must hold train_sent_emo.csv, at any depth"):
        scan(tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"must hold train_sent_emo.csv"):
        scan(tmp_path, tmp_path, allow_missing=True)
    with pytest.raises(InputError, match="--labels must be one of emotion, sentiment, got 'mood'"):
        scan(tmp_path, tmp_path, labels="mood")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--audio-dir must be a folder, .*file is a file"):
        scan(tmp_path, tmp_path / "file")
