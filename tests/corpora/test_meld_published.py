"""MELD's published tables of 13,708 utterances: counts of each split and class, the commands."""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mp4 import tones, write_mp4

from serkd.cli import main
from serkd.corpora.manifest import read_manifest
from serkd.corpora.meld import scan
from serkd.errors import InputError

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_TABLES = _SHARED / "data" / "splits" / "meld"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not _TABLES.is_dir(), reason="SERKD_REAL_DATA has no published tables"),
]
_FOLDERS = {
    "train": "train/train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
_CLASSES = {
    "emotion": ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear"),
    "sentiment": ("neutral", "positive", "negative"),
}
_COUNTS = {  # METHODS: the release's classes
    ("train", "emotion"): (4710, 1743, 1205, 1109, 683, 271, 268),
    ("dev", "emotion"): (470, 163, 150, 153, 111, 22, 40),
    ("test", "emotion"): (1256, 402, 281, 345, 208, 68, 50),
    ("train", "sentiment"): (4710, 2334, 2945),
    ("dev", "sentiment"): (470, 233, 406),
    ("test", "sentiment"): (1256, 521, 833),
}


def _rows(split: str) -> list[dict[str, str]]:
    with (_TABLES / f"{split}_sent_emo.csv").open(encoding="utf-8-sig", newline="") as file:
        return [*csv.DictReader(file)]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release's folders with a short WAV for each clip that the release has."""
    root = tmp_path_factory.mktemp("meld") / "MELD.Raw"
    root.mkdir()
    tone = root / "tone.wav"
    soundfile.write(tone, 0.1 * np.sin(np.arange(1_920) / 5), 16_000)
    for split, name in _FOLDERS.items():
        folder = root / name
        folder.mkdir(parents=True)
        table = root / ("train" if split == "train" else "") / f"{split}_sent_emo.csv"
        shutil.copy(_TABLES / table.name, table)
        for row in _rows(split):
            clip = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            if (split, clip) not in (("train", "dia125_utt3"), ("dev", "dia110_utt7")):
                (folder / f"{clip}.wav").hardlink_to(tone)
        for decoy in ("final_videos_testdia0_utt0.mp4", "._dia0_utt0.mp4"):
            (folder / decoy).write_bytes(b"\x00\x05\x16\x07")
    return root


@pytest.mark.parametrize("labels", ["emotion", "sentiment"])
def test_splits_and_classes_are_the_published_ones(full: Path, tmp_path: Path, labels: str) -> None:
    listing = scan(full, tmp_path / "audio", labels)
    assert listing.excluded == [
        "train_dia125_utt3: its clip is broken in the release",
        "dev_dia110_utt7: its clip is broken in the release",
    ]
    assert not listing.bad and not (tmp_path / "audio").exists()
    found = Counter((s.split, s.emotion) for s in listing.sources)
    for split, dialog, number in (("train", 125, 3), ("dev", 110, 7)):
        ids = {"Dialogue_ID": str(dialog), "Utterance_ID": str(number)}
        broken = next(row for row in _rows(split) if ids.items() <= row.items())
        found[split, broken[labels.title()]] += 1
    assert found == {
        (split, name): count
        for split in _FOLDERS
        for name, count in zip(_CLASSES[labels], _COUNTS[split, labels], strict=True)
    }
    by_split = Counter(source.split for source in listing.sources)
    assert by_split == {"train": 9_988, "dev": 1_108, "test": 2_610}
    six = {s.speaker_id: s.gender for s in listing.sources if s.gender != "unknown"}
    assert sorted(six.items()) == [
        *(("Chandler", "male"), ("Joey", "male"), ("Monica", "female")),
        *(("Phoebe", "female"), ("Rachel", "female"), ("Ross", "male")),
    ]
    assert "test_dia125_utt3" in {source.utt_id for source in listing.sources}


@pytest.fixture
def without_one(full: Path) -> Iterator[Path]:
    clip = full / _FOLDERS["test"] / "dia125_utt3.wav"
    clip.rename(full / "aside.wav")
    yield full
    (full / "aside.wav").rename(clip)


def test_a_missing_clip_is_refused_by_name(without_one: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        scan(without_one, tmp_path)
    first, *others = str(refused.value).splitlines()
    assert first == f"{without_one}: test_dia125_utt3: no clip" and len(others) == 1
    listing = scan(without_one, tmp_path, allow_missing=True)
    assert "test_dia125_utt3: no clip" in listing.excluded and len(listing.sources) == 13_705


def test_the_command_line_prepares_and_refuses(
    without_one: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)

    def prepare(*options: str) -> int:
        arguments = ["serkd", "prepare", "meld", str(without_one), "--quiet", *options]
        monkeypatch.setattr("sys.argv", arguments)
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert prepare() == 2
    assert "test_dia125_utt3: no clip" in capsys.readouterr().err
    assert prepare("--min-duration", "30") == prepare("--max-duration", "nan") == 2
    assert not [*tmp_path.iterdir()]

    clip = without_one / _FOLDERS["test"] / "dia125_utt3.mp4"
    write_mp4(clip, tones(6))
    content = clip.read_bytes()
    clip.write_bytes(content[:-50])
    assert prepare() == 2
    assert "dia125_utt3.mp4: must be whole" in capsys.readouterr().err
    assert not (tmp_path / "meld.parquet").exists()
    clip.write_bytes(content)
    assert prepare() == 0
    assert "13706 utterances" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "meld.parquet")
    assert len(manifest.class_names) == 7 and len(manifest.excluded) == 2
    flac = Path(manifest.by_id["test_dia125_utt3"].path)
    assert flac == tmp_path.resolve() / "meld-audio" / "test" / "dia125_utt3.flac"
    assert soundfile.info(flac).samplerate == 16_000
    clip.unlink()
