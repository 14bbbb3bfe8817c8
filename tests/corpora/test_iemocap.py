"""IEMOCAP: its evaluation files, its speakers, its published counts, and what is missing."""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkd.cli import main
from serkd.corpora.build import Listing
from serkd.corpora.iemocap import scan
from serkd.corpora.manifest import read_manifest
from serkd.errors import InputError

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_LIST = _SHARED / "data" / "splits" / "iemocap.csv"
needs_real_data = pytest.mark.skipif(not _LIST.is_file(), reason="SERKD_REAL_DATA has no lists")

_VOTES = "C-E2:\tNeutral;\t()\nC-E3:\tNeutral;\t()\nC-E4:\tAnger; Frustration;\t(curt)\n"
_SELF = "C-M1:\tSadness;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\nA-M1:\tval 3; act 2; dom 1;\t()\n"


def _block(utt_id: str, label: str, votes: str = _VOTES) -> str:
    return f"[6.2901 - 8.2357]\t{utt_id}\t{label}\t[2.5000, 2.5000, 2.5000]\n{votes}{_SELF}\n"


def _evaluation(release: Path, dialog: str) -> Path:
    return release / f"Session{dialog[4]}" / "dialog" / "EmoEvaluation" / f"{dialog}.txt"


def _wav(release: Path, utt_id: str) -> Path:
    dialog = utt_id.rpartition("_")[0]
    return release / f"Session{utt_id[4]}" / "sentences" / "wav" / dialog / f"{utt_id}.wav"


def _write_release(
    release: Path, labels: Iterable[tuple[str, str]], *, newline: str = "\n"
) -> Path:
    """A release of utterances and labels; all sound is one short file."""
    tone = release / "tone.wav"
    release.mkdir(parents=True, exist_ok=True)
    soundfile.write(tone, 0.1 * np.sin(np.arange(1_920) / 5), 16_000)
    texts: dict[str, list[str]] = {}
    for utt_id, label in labels:
        texts.setdefault(utt_id.rpartition("_")[0], []).append(_block(utt_id, label))
        wav = _wav(release, utt_id)
        wav.parent.mkdir(parents=True, exist_ok=True)
        wav.hardlink_to(tone)
    for dialog, blocks in texts.items():
        path = _evaluation(release, dialog)
        path.parent.mkdir(parents=True, exist_ok=True)
        head = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        path.write_text(head + "".join(blocks), encoding="latin-1", newline=newline)
    return release


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
    return _write_release(tmp_path / "release", _INVENTED, newline="\r\n")


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
    path = _evaluation(invented, "Ses03M_script01_1b")
    path.write_text(_block("Ses03M_script01_1b_F012", "exc", text), encoding="latin-1")
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
    evaluations = _evaluation(invented, "Ses01F_impro01").parent
    wavs = _wav(invented, "Ses01F_impro01_F000").parent
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
    path = _evaluation(invented, "Ses01F_impro01")
    with path.open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    number = len(path.read_text(encoding="latin-1").splitlines())
    with pytest.raises(InputError, match=message) as refused:
        _scan(invented)
    assert str(refused.value).startswith(f"{path}, line {number}: ")
    assert len(str(refused.value).splitlines()) == 1


def test_comments_may_say_anything(invented: Path) -> None:
    path = _evaluation(invented, "Ses01F_impro01")
    with path.open("a", encoding="latin-1") as file:
        file.write("A-E4:\tval 2; act 3; dom  3;\t(as in Ses01F_impro01_F000)\nand goes on)\n")
        file.write("C-E4:\tNeutral;\t(as in Ses01F_impro01_F000)\n")
    assert len(_scan(invented).sources) == 5


def test_an_utterance_in_two_evaluation_files_is_refused(invented: Path) -> None:
    path = _evaluation(invented, "Ses01F_impro01")
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
    _wav(invented, "Ses03M_script01_1b_M003").unlink()
    _evaluation(invented, "Ses05F_impro05a").unlink()
    with pytest.raises(InputError) as refused:
        scan(invented)
    text = str(refused.value)
    for expected in (
        "Session2: no dialog/EmoEvaluation folder",
        "Session4: no dialog/EmoEvaluation folder",
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


# ---- the published list of the 5531 utterances


def _published() -> dict[str, dict[str, str]]:
    with _LIST.open(encoding="utf-8") as file:
        return {Path(row["wav"]).stem: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with the 5531 published utterances and others to be left out."""
    published = {utt_id: row["emo"] for utt_id, row in _published().items()}
    dialogs = sorted({utt_id.rpartition("_")[0] for utt_id in published})
    labels = cycle(["xxx", "fru", "fru", "oth", "sur", "fea", "dis"])
    others = (
        f"{dialog}_{letter}{900 + i}" for i in range(15) for dialog in dialogs for letter in "FM"
    )
    extra = dict(zip(islice(others, 4_000), labels, strict=False))
    folder = tmp_path_factory.mktemp("iemocap") / "IEMOCAP_full_release"
    return _write_release(folder, sorted({**published, **extra}.items()))


@pytest.fixture
def lent(full: Path) -> Iterable[Callable[[Path], None]]:
    """Removes files of the release, and puts them back."""
    removed: list[tuple[Path, Path]] = []

    def remove(path: Path) -> None:
        aside = full.parent / path.name
        path.rename(aside)
        removed.append((path, aside))

    yield remove
    for path, aside in removed:
        aside.rename(path)


@pytest.mark.real
@needs_real_data
def test_speakers_sessions_and_labels_are_the_published_ones(full: Path) -> None:
    published = _published()
    listing = scan(full)
    found = {source.utt_id: source for source in listing.sources}
    assert found.keys() == published.keys() and not listing.excluded
    for utt_id, row in published.items():
        source = found[utt_id]
        assert (source.speaker_id, source.gender[0].upper()) == (row["speaker"], row["gender"])
        assert (source.session, source.emotion) == (row["session"], row["label4"])
    assert Counter(s.emotion for s in listing.sources) == {
        "ang": 1103,
        "hap": 1636,
        "neu": 1708,
        "sad": 1084,
    }
    sessions = Counter(s.session for s in listing.sources)
    assert [sessions[s] for s in "12345"] == [1085, 1023, 1151, 1031, 1241]
    speakers = Counter(s.speaker_id for s in listing.sources)
    assert [speakers[f"Ses0{s}{letter}"] for s in "12345" for letter in "FM"] == [
        *(528, 557, 481, 542, 522, 629, 528, 503, 590, 651)
    ]
    assert len(listing.notes) == 1 and "fru 1144, " in listing.notes[0]


@pytest.mark.real
@needs_real_data
def test_the_prefix_is_not_the_speaker(full: Path) -> None:
    sources = scan(full).sources
    assert sum(s.utt_id[:6] != s.speaker_id for s in sources) == 2_750


@pytest.mark.real
@needs_real_data
def test_counts_are_of_the_base_set_whatever_is_selected(
    full: Path, lent: Callable[[Path], None]
) -> None:
    assert len(scan(full, classes="4-no-exc").sources) == 5_531 - 1_041
    assert len(scan(full, subset="improvised").sources) == 2_943
    assert len(scan(full, classes="5").sources) > 5_531
    lent(_evaluation(full, "Ses04F_script02_2"))
    with pytest.raises(InputError, match="must have Session4 1031, found 9"):
        scan(full, classes="6", subset="improvised")


@pytest.mark.real
@needs_real_data
def test_what_is_missing_is_refused_by_name(full: Path, lent: Callable[[Path], None]) -> None:
    lent(_wav(full, "Ses02M_impro03_F003"))
    with pytest.raises(InputError) as refused:
        scan(full)
    assert str(refused.value).splitlines() == [
        f"{full}: Ses02M_impro03_F003: no audio file",
        "a part of the release can be used with --allow-missing",
    ]
    lent(_evaluation(full, "Ses05F_impro01"))
    with pytest.raises(InputError, match="Ses05F_impro01: no evaluation file"):
        scan(full)
    listing = scan(full, allow_missing=True)
    assert {"Ses02M_impro03_F003: no audio file"} < {*listing.excluded}
    assert any("must have Session5 1241, found 1" in note for note in listing.notes)


@pytest.mark.real
@needs_real_data
def test_the_command_line_prepares_and_refuses(
    full: Path,
    lent: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def prepare(*options: str) -> int:
        monkeypatch.setattr("sys.argv", ["serkd", "prepare", "iemocap", str(full.parent), *options])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    lent(_wav(full, "Ses02M_impro03_F003"))
    assert prepare() == 2
    assert "Ses02M_impro03_F003: no audio file" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
    assert prepare("--allow-missing", "--quiet") == 0
    told = capsys.readouterr()
    assert "excluded: Ses02M_impro03_F003: no audio file" in told.err
    assert "5530 utterances, 10 speakers, 4 emotions" in told.out
    manifest = read_manifest(tmp_path / "iemocap.parquet")
    assert manifest.class_names == ("ang", "hap", "neu", "sad")
    assert manifest.by_id["Ses01F_impro01_F000"].votes == (("ang", 1), ("fru", 1), ("neu", 2))
