"""IEMOCAP: its evaluation files, its speakers, and what is missing, on a few utterances."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from iemocap_release import block, evaluation_path, wav_path, write_release

from serkd.corpora.build import Listing
from serkd.corpora.iemocap import scan
from serkd.errors import InputError

_INVENTED = (
    ("Ses01F_impro01_F000", "neu"),
    ("Ses01F_impro01_M000", "ang"),
    ("Ses01F_impro01_M001", "xxx"),
    ("Ses03M_script01_1b_F012", "exc"),
    ("Ses03M_script01_1b_M003", "hap"),
    ("Ses05F_impro05a_M020", "fru"),
    ("Ses05F_impro05a_F020", "sad"),
    ("Ses05M_script02_2_F001", "sur"),
)


@pytest.fixture
def invented(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release", _INVENTED, newline="\r\n")


def _scan(root: Path, **options: str) -> Listing:
    return scan(root, allow_missing=True, **options)


def test_the_last_field_names_the_speaker(invented: Path) -> None:
    sources = {source.utt_id: source for source in _scan(invented).sources}
    assert [*sources] == sorted(
        u for u, label in _INVENTED if label in ["ang", "hap", "exc", "neu", "sad"]
    )
    male = sources["Ses01F_impro01_M000"]
    assert (male.speaker_id, male.gender, male.session) == ("Ses01M", "male", "1")
    female = sources["Ses03M_script01_1b_F012"]
    assert (female.speaker_id, female.gender, female.session) == ("Ses03F", "female", "3")
    assert all(source.path.is_file() and source.split == "" for source in sources.values())


def test_votes_are_those_of_outsiders_and_not_merged(invented: Path) -> None:
    text = (
        "C-E1:\tHappiness; Excited;\t()\nC-E2:\tExcited\nC-E4:\tNeutral state; Other; Odd;\t(é)\n"
    )
    path = evaluation_path(invented, "Ses03M_script01_1b")
    path.write_text(block("Ses03M_script01_1b_F012", "exc", text), encoding="latin-1")
    listing = _scan(invented)
    sources = {source.utt_id: source for source in listing.sources}
    assert sources["Ses01F_impro01_F000"].votes == (("ang", 1), ("fru", 1), ("neu", 2))
    merged = sources["Ses03M_script01_1b_F012"]
    assert merged.emotion == "hap"
    assert merged.votes == (("exc", 2), ("hap", 1), ("neu", 1), ("oth", 1))
    assert any("'odd', no category, are not counted: 1" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("4", "neu ang hap hap sad"),
        ("4-no-exc", "neu ang hap sad"),
        ("5", "neu ang hap hap fru sad"),
        ("6", "neu ang exc hap fru sad"),
    ],
)
def test_sets_of_classes(invented: Path, classes: str, expected: str) -> None:
    listing = _scan(invented, classes=classes)
    assert Counter(s.emotion for s in listing.sources) == Counter(expected.split())
    left_out = next(note for note in listing.notes if note.startswith("left out by label: "))
    counts = dict(part.split() for part in left_out.partition(": ")[2].split(", "))
    assert sum(map(int, counts.values())) == len(_INVENTED) - len(listing.sources)
    assert counts["xxx"] == counts["sur"] == "1"


def test_subsets_are_told_by_the_dialog(invented: Path) -> None:
    scripted = _scan(invented, subset="scripted")
    assert {s.utt_id for s in scripted.sources} == {
        "Ses03M_script01_1b_F012",
        "Ses03M_script01_1b_M003",
    }
    assert "left out by --subset: improvised 3" in scripted.notes
    assert len(_scan(invented, subset="improvised").sources) == 3


def test_the_release_is_found_from_the_folder_above(invented: Path) -> None:
    (invented / "readme.txt").touch()
    assert len(_scan(invented.parent).sources) == 5
    shutil.copytree(invented / "Session1", invented.parent / "other" / "Session1")
    with pytest.raises(
        InputError, match="must hold one release of IEMOCAP, it holds other, release"
    ):
        _scan(invented.parent)


def test_junk_of_real_releases_is_passed_over(invented: Path) -> None:
    evaluations = evaluation_path(invented, "Ses01F_impro01").parent
    wavs = wav_path(invented, "Ses01F_impro01_F000").parent
    for folder in ("Categorical", "Attribute", "Self-evaluation"):
        (evaluations / folder).mkdir()
        (evaluations / folder / "Ses01F_impro01_e2_cat.txt").write_text(
            "Ses01F_impro01_F000 :Neutral;"
        )
    (evaluations / "._Ses01F_impro01.txt").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (wavs / "._Ses01F_impro01_F000.wav").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (wavs.parent / "._Ses01F_impro01").write_bytes(b"\x00")
    (wavs / os.fsdecode(b"\xff\xfe.wav")).write_bytes(b"not UTF-8")
    (wavs / "Ses01F_impro01_F000.wav").rename(wavs / "Ses01F_impro01_F000.WAV")
    listing = _scan(invented)
    assert len(listing.sources) == 5 and not [e for e in listing.excluded if "Session" not in e]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[6.2901 - 8.2357]\tSes01F_impro01_F009\tneu", "must look like"),
        ("[6.2901 - 8.23", "must look like"),
        ("6.2901 - 8.2357]\tSes01F_impro01_F009\tneu\t[2.5, 2.5, 2.5]", "must look like"),
        ("[6.2901 - 8.2357]\tSes01F_impro01_X009\tneu\t[2.5, 2.5, 2.5]", "must look like"),
        (
            "[6.2901 - 8.2357]\tSes01F_impro01_F009\tjoy\t[2.5, 2.5, 2.5]",
            "label must be one of ang",
        ),
        ("[6.2901 - 8.2357]\tSes02F_impro01_F009\tneu\t[2.5, 2.5, 2.5]", "utterance of session 1"),
        ("C-E?\tNeutral;\t()", "must look like 'C-E2: Neutral; Anger; ..'"),
        ("[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5, 2.5, 2.5]", "must be evaluated once"),
    ],
)
def test_malformed_lines_are_named(invented: Path, line: str, message: str) -> None:
    path = evaluation_path(invented, "Ses01F_impro01")
    with path.open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    number = len(path.read_text(encoding="latin-1").splitlines())
    with pytest.raises(InputError, match=message) as refused:
        _scan(invented)
    assert str(refused.value).startswith(f"{path}, line {number}: ")
    assert len(str(refused.value).splitlines()) == 1


def test_comments_may_say_anything(invented: Path) -> None:
    path = evaluation_path(invented, "Ses01F_impro01")
    with path.open("a", encoding="latin-1") as file:
        file.write("A-E4:\tval 2; act 3; dom  3;\t(as in Ses01F_impro01_F000)\nand goes on)\n")
        file.write("C-E4:\tNeutral;\t(as in Ses01F_impro01_F000)\n")
    assert len(_scan(invented).sources) == 5


def test_an_utterance_in_two_evaluation_files_is_refused(invented: Path) -> None:
    path = evaluation_path(invented, "Ses01F_impro01")
    shutil.copy(path, path.with_name("Ses01F_impro01 (copy).txt"))
    with pytest.raises(InputError, match=r"Ses01F_impro01_F000 also is in .*copy"):
        _scan(invented)


def test_other_folders_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: must be the folder of IEMOCAP's release"):
        scan(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: must be the folder of IEMOCAP's release"):
        scan(tmp_path / "file")
    with pytest.raises(InputError, match="Session1/dialog/EmoEvaluation"):
        scan(tmp_path)
    with pytest.raises(InputError, match=r"--classes must be one of 4, 4-no-exc, 5, 6, got '7'"):
        scan(tmp_path, classes="7")


def test_an_incomplete_release_names_all_that_differs(invented: Path) -> None:
    wav_path(invented, "Ses03M_script01_1b_M003").unlink()
    evaluation_path(invented, "Ses05F_impro05a").unlink()
    with pytest.raises(InputError) as refused:
        scan(invented)
    text = str(refused.value)
    for expected in (
        "Session2: no evaluation files in dialog/EmoEvaluation",
        "Session4: no evaluation files in dialog/EmoEvaluation",
        "Ses03M_script01_1b_M003: no audio file",
        "Ses05F_impro05a: no evaluation file with its utterances",
        "must have utterances 5531, found 4",
        "must have hap with exc 1636, found 2",
        "must have Ses05M 651, found 0",
        "--allow-missing",
    ):
        assert expected in text
    listing = _scan(invented)
    assert {s.utt_id for s in listing.sources} == {
        "Ses01F_impro01_F000",
        "Ses01F_impro01_M000",
        "Ses03M_script01_1b_F012",
    }
    assert "Ses03M_script01_1b_M003: no audio file" in listing.excluded
    assert "Ses05F_impro05a: no evaluation file with its utterances" in listing.excluded
