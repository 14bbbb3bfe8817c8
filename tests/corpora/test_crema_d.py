"""CREMA-D: its file names and its table of actors."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkd.cli import main
from serkd.corpora.crema_d import scan
from serkd.corpora.manifest import read_manifest
from serkd.errors import InputError

_EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear"} | {
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}


@pytest.fixture
def invented(tmp_path: Path) -> Path:
    """Four actors; every second one is male."""
    root = tmp_path / "CREMA-D"
    (root / "AudioWAV").mkdir(parents=True)
    rows = ["ActorID,Age,Sex,Race,Ethnicity"]
    for actor in range(1001, 1005):
        rows.append(f"{actor},51,{'Male' if actor % 2 else 'Female'},Caucasian,Not Hispanic")
        for emotion in _EMOTIONS:
            name = f"{actor}_DFA_{emotion}_{'XX' if actor % 2 else 'HI'}.wav"
            soundfile.write(root / "AudioWAV" / name, np.ones(3_200) / 9, 16_000)
    (root / "VideoDemographics.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


@pytest.mark.parametrize("place", ["", "AudioWAV", "meta/data", ".."])
def test_names_and_the_table_say_who_and_how(invented: Path, place: str) -> None:
    (invented / place).mkdir(parents=True, exist_ok=True)
    (invented / "VideoDemographics.csv").rename(invented / place / "VideoDemographics.csv")
    listing = scan(invented)
    assert Counter(s.speaker_id for s in listing.sources) == {f"100{i}": 6 for i in (1, 2, 3, 4)}
    for source in listing.sources:
        assert source.gender == ("male" if int(source.speaker_id) % 2 else "female")
        assert source.emotion == _EMOTIONS[source.utt_id[9:12]]
    assert listing.notes == ["CREMA-D has 7442 clips, found 24"]


def test_the_misnamed_clip_counts_and_strangers_do_not(invented: Path) -> None:
    for name in (
        *("1001_ITH_SAD_X.wav", "1001_IEO_FEA_LO.mp3", "._1001_IEO_FEA_LO.wav"),
        *("1001_IEO_FEA.wav", "1001_IEO_JOY_LO.wav", "1001_IEO_FEA_LO.wav.part"),
        os.fsdecode(b"1001_IEO_FEA_L\xd6.wav"),
    ):
        (invented / "AudioWAV" / name).touch()
    sources = {source.utt_id: source for source in scan(invented).sources}
    assert len(sources) == 25 and sources["1001_ITH_SAD_X"].emotion == "sadness"


def test_the_audio_folder_is_enough_with_the_table_above(invented: Path) -> None:
    assert len(scan(invented / "AudioWAV").sources) == 24


def test_tables_that_do_not_say_everything_are_refused(invented: Path) -> None:
    table = invented / "VideoDemographics.csv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("1003,51,Male", "1093,51,Male").replace("1004,51", "1094,51"))
    with pytest.raises(InputError) as refused:
        scan(invented)
    assert str(refused.value).splitlines() == [
        f"{table}: must have each actor of a clip, it lacks 1003",
        f"{table}: must have each actor of a clip, it lacks 1004",
    ]
    table.write_text(text.replace("1002,51,Female", "1002,51,?"))
    with pytest.raises(InputError, match=r"csv, line 3: Sex must be Female or Male, got '\?'"):
        scan(invented)
    table.write_text(text + "\n1001,51,Female,,")
    with pytest.raises(InputError, match="line 6: actor 1001 is female here and male above"):
        scan(invented)
    table.write_text(text.replace("ActorID", "Actor"))
    with pytest.raises(InputError, match="must have the columns ActorID and Sex, it has Actor,"):
        scan(invented)
    table.write_bytes(b"ActorID,Sex\n1001,\xff\n")
    with pytest.raises(InputError, match=r"VideoDemographics.csv: must be CSV in UTF-8"):
        scan(invented)
    table.unlink()
    with pytest.raises(InputError, match=r"VideoDemographics.csv of the release must be in it"):
        scan(invented)


def test_other_folders_are_refused(invented: Path) -> None:
    with pytest.raises(InputError, match="nowhere: must be the folder of CREMA-D"):
        scan(invented / "nowhere")
    (invented / "VideoFlash").mkdir()
    with pytest.raises(InputError, match="must hold CREMA-D's clips, such as AudioWAV/1001_"):
        scan(invented / "VideoFlash")


def test_the_command_line(
    invented: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(invented.parent)
    monkeypatch.setattr("sys.argv", ["serkd", "prepare", "crema_d", "CREMA-D", "--quiet"])
    (invented / "AudioWAV" / "1001_IEO_FEA_LO.wav").write_bytes(b"version https://git-lfs")
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "1001_IEO_FEA_LO.wav: must be readable audio" in capsys.readouterr().err
    assert not (invented.parent / "crema_d.parquet").exists()
    monkeypatch.setattr(
        "sys.argv", ["serkd", "prepare", "crema_d", "CREMA-D", "--on-bad", "exclude"]
    )
    with pytest.raises(SystemExit, match="0"):
        main()
    told = capsys.readouterr()
    assert "note: CREMA-D has 7442 clips, found 25" in told.err
    assert len(read_manifest(invented.parent / "crema_d.parquet").utterances) == 24
