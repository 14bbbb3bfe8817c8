"""RAVDESS: its official folders, its file names, and the real recordings where they are."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from serkd.corpora.audio import read_audio
from serkd.corpora.ravdess import scan
from serkd.errors import InputError

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_REAL = _SHARED / "data" / "ravdess"
_ENCODER = _SHARED / "models" / "whisper-tiny.en-encoder"
needs_real_data = pytest.mark.skipif(
    not (_REAL.is_dir() and _ENCODER.is_dir()), reason="SERKD_REAL_DATA holds no real data"
)
_NAMES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


def _official_names() -> list[str]:
    """The 60 clips of each of the 24 actors, as the corpus's own description counts them."""
    return [
        f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{take:02d}-{actor:02d}"
        for actor in range(1, 25)
        for emotion in range(1, 9)
        for intensity in ((1,) if emotion == 1 else (1, 2))  # neutral is never strong
        for statement in (1, 2)
        for take in (1, 2)
    ]


@pytest.mark.parametrize("layout", ["actors", "flat", "zips"])
def test_the_whole_corpus_is_found_in_every_layout(tmp_path: Path, layout: str) -> None:
    for name in _official_names():
        folder = {
            "actors": tmp_path / f"Actor_{name[-2:]}",
            "flat": tmp_path,
            "zips": tmp_path / "Audio_Speech_Actors_01-24" / f"Actor_{name[-2:]}",
        }[layout]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.wav").touch()
    sources = scan(tmp_path).sources
    assert len(sources) == len({s.utt_id for s in sources}) == 1_440
    assert all(source.path.is_file() for source in sources)
    assert Counter(s.speaker_id for s in sources) == {f"{i:02d}": 60 for i in range(1, 25)}
    assert Counter(s.emotion for s in sources) == {
        name: 96 if name == "neutral" else 192 for name in _NAMES
    }
    for source in sources:
        fields = source.utt_id.split("-")
        assert source.emotion == _NAMES[int(fields[2]) - 1]
        assert source.gender == ("male" if int(fields[6]) % 2 else "female")


def test_songs_videos_and_strangers_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "Actor_02"
    folder.mkdir()
    (folder / "03-01-05-02-01-01-02.flac").touch()
    for name in (
        "03-02-05-02-01-01-02.wav",  # a song
        "01-01-05-02-01-01-02.mp4",  # full video
        "02-01-05-02-01-01-02.mp4",  # video without sound
        "03-01-09-02-01-01-02.wav",  # no such emotion
        "03-01-05-02-01-01-02.wav.txt",
        "03-01-05-02-01-01.wav",
        "._03-01-05-02-01-01-02.wav",  # what macOS leaves in archives
        "readme.txt",
    ):
        (folder / name).touch()
    assert [s.path.name for s in scan(tmp_path).sources] == ["03-01-05-02-01-01-02.flac"]


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: must be the folder of RAVDESS"):
        scan(tmp_path / "nowhere")
    (tmp_path / "03-02-05-02-01-01-02.wav").touch()
    with pytest.raises(InputError, match="must hold RAVDESS clips such as 03-01-"):
        scan(tmp_path)


@pytest.mark.real
@needs_real_data
def test_real_clips_agree_with_the_published_list() -> None:
    sources = {source.utt_id: source for source in scan(_REAL).sources}
    with (_REAL / "manifest.csv").open(encoding="utf-8") as file:
        listed = {row["utt_id"]: row for row in csv.DictReader(file)}
    assert sources.keys() == listed.keys()
    for utt_id, row in listed.items():
        assert sources[utt_id].gender[0] == row["gender"][0].lower()
        assert sources[utt_id].emotion[:3] == row["emotion"][:3].lower()
    for utt_id in sorted(listed)[::240]:
        decoded = read_audio(sources[utt_id].path)
        assert decoded.num_samples / 16_000 == pytest.approx(
            float(listed[utt_id]["duration"]), abs=0.01
        )


@pytest.mark.real
@needs_real_data
def test_the_known_duplicate_has_one_hash() -> None:
    paths = {source.utt_id: source.path for source in scan(_REAL).sources}
    twins = ["03-01-03-01-02-01-07", "03-01-03-01-02-02-07", "03-01-03-01-02-01-08"]
    hashes = [read_audio(paths[utt_id]).sha256 for utt_id in twins]
    assert hashes[0] == hashes[1] != hashes[2]
