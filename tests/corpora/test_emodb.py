"""EmoDB: its file names."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkd.corpora.build import build_manifest
from serkd.corpora.emodb import scan
from serkd.errors import InputError

# from the corpus's own description: speaker, gender
_SPEAKERS = {
    **dict.fromkeys(("03", "10", "11", "12", "15"), "male"),
    **dict.fromkeys(("08", "09", "13", "14", "16"), "female"),
}
_LETTERS = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear"} | {
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}


def test_names_say_who_and_how(tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    for speaker in _SPEAKERS:
        for letter in _LETTERS:
            (tmp_path / "wav" / f"{speaker}a01{letter}a.wav").touch()
            (tmp_path / "wav" / f"{speaker}b10{letter}c.WAV").touch()
    listing = scan(tmp_path)
    assert Counter(s.speaker_id for s in listing.sources) == dict.fromkeys(_SPEAKERS, 14)
    for source in listing.sources:
        assert source.gender == _SPEAKERS[source.utt_id[:2]]
        assert source.emotion == _LETTERS[source.utt_id[5]]
    assert listing.notes == ["EmoDB has 535 clips, found 140"]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "03a01Fa.flac", np.ones(3_200) / 9, 16_000)
    for name in (
        *("03a01Fa.lab", "._03a01Fa.wav", "03a01Xa.wav", "04a01Fa.wav", "03c01Fa.wav"),
        *("03a01F.wav", "03a01Fa.wav.txt", "10a.wav"),
    ):
        (tmp_path / name).touch()
    assert [s.utt_id for s in scan(tmp_path).sources] == ["03a01Fa"]
    assert scan(tmp_path).sources[0].path.suffix == ".flac"
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "03a01Fa.wav").touch()
    with pytest.raises(InputError, match="'03a01Fa' is repeated"):
        build_manifest(scan(tmp_path))


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"Aufnahmen\xfc")
    folder.mkdir()
    (folder / "03a01Fa.wav").touch()
    with pytest.raises(InputError, match="the path must be UTF-8, got '/"):
        build_manifest(scan(folder))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: must be the folder of EmoDB"):
        scan(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"must hold EmoDB's clips, such as wav/03a01Fa\.wav"):
        scan(tmp_path)
