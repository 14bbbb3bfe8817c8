"""IEMOCAP's published list of 5531 utterances: each speaker and label, counts, the commands."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path

import pytest
from iemocap_release import evaluation_path, wav_path, write_release

from serkd.cli import main
from serkd.corpora.iemocap import scan
from serkd.corpora.manifest import read_manifest
from serkd.errors import InputError

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_LIST = _SHARED / "data" / "splits" / "iemocap.csv"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not _LIST.is_file(), reason="SERKD_REAL_DATA has no published list"),
]


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
    return write_release(folder, sorted({**published, **extra}.items()))


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


def test_the_prefix_is_not_the_speaker(full: Path) -> None:
    sources = scan(full).sources
    assert sum(s.utt_id[:6] != s.speaker_id for s in sources) == 2_750


def test_counts_are_of_the_base_set_whatever_is_selected(
    full: Path, lent: Callable[[Path], None]
) -> None:
    assert len(scan(full, classes="4-no-exc").sources) == 5_531 - 1_041
    assert len(scan(full, subset="improvised").sources) == 2_943
    assert len(scan(full, classes="5").sources) > 5_531
    lent(evaluation_path(full, "Ses04F_script02_2"))
    with pytest.raises(InputError, match="must have Session4 1031, found 9"):
        scan(full, classes="6", subset="improvised")


def test_what_is_missing_is_refused_by_name(full: Path, lent: Callable[[Path], None]) -> None:
    lent(wav_path(full, "Ses02M_impro03_F003"))
    with pytest.raises(InputError) as refused:
        scan(full)
    assert str(refused.value).splitlines() == [
        f"{full}: Ses02M_impro03_F003: no audio file",
        "a part of the release can be used with --allow-missing",
    ]
    lent(evaluation_path(full, "Ses05F_impro01"))
    with pytest.raises(InputError, match="Ses05F_impro01: no evaluation file"):
        scan(full)
    listing = scan(full, allow_missing=True)
    assert {"Ses02M_impro03_F003: no audio file"} < {*listing.excluded}
    assert any("must have Session5 1241, found 1" in note for note in listing.notes)


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

    lent(wav_path(full, "Ses02M_impro03_F003"))
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
