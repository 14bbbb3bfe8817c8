"""Commands about data: where they write, and how they show names that look like markup."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkd.cli import main


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight clips of four speakers and two emotions, whose names look like Rich's markup."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = ["path,speaker_id,emotion"]
    for i in range(8):
        soundfile.write(tmp_path / f"u{i}.wav", 0.1 * rng.standard_normal(9_600), 16_000)
        rows.append(f"u{i}.wav,[red]s{i % 4},{('[/x]', '[bold]')[i // 4]}")
    (tmp_path / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "table.csv"


def _serkd(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["serkd", *map(str, arguments)])
    try:
        main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("out", "rule"),
    [
        ("table.csv", "--out must not be the file that is read, got table.csv"),
        ("folder", "--out must be a file, folder is a folder"),
        ("", "--out must be a file, . is a folder"),
        (
            "table.csv/m.parquet",
            "--out must be where files can be written, not table.csv/m.parquet",
        ),
        ("m" * 250, "--out must be where files can be written: "),
    ],
)
def test_where_nothing_can_be_written_is_refused_before_any_work(
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    rule: str,
) -> None:
    (table.parent / "folder").mkdir()
    before = _files(table.parent)
    assert _serkd(monkeypatch, "prepare", "table", "table.csv", "--out", out) == 2
    done = capsys.readouterr()
    assert f"error: {rule}" in done.err
    assert done.out == ""
    assert _files(table.parent) == before


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("synthetic", "table.csv", "--out", "m.parquet"), "FOLDER must be where files can be"),
        (("synthetic", "table.csv/new", "--out", "m.parquet"), "FOLDER must be where files can be"),
        (("synthetic", "new", "--seed", "-1"), "'--seed'"),
        (("meld", ".", "--audio-dir", "table.csv/new"), "--audio-dir must be where files can be"),
    ],
)
def test_wrong_places_for_audio_and_seeds_are_refused(
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    rule: str,
) -> None:
    before = sorted(table.parent.rglob("*"))
    assert _serkd(monkeypatch, "prepare", *arguments) == 2
    assert rule in capsys.readouterr().err
    assert sorted(table.parent.rglob("*")) == before


@pytest.mark.parametrize("html", ["m.parquet", "folder", "table.csv/page.html"])
def test_the_doctor_writes_over_no_manifest_or_folder(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], html: str
) -> None:
    (table.parent / "folder").mkdir()
    assert _serkd(monkeypatch, "prepare", "table", "table.csv", "--out", "m.parquet") == 0
    before = _files(table.parent)
    capsys.readouterr()
    assert _serkd(monkeypatch, "doctor", "m.parquet", "--html", html) == 2
    assert "error: --html must" in capsys.readouterr().err
    assert _files(table.parent) == before


def test_names_are_shown_as_they_are_and_the_rate_is_told(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _serkd(monkeypatch, "prepare", "table", "table.csv", "--out", "[b]/m.parquet") == 0
    told = capsys.readouterr().out
    assert "[b]/m.parquet: 8 utterances, 4 speakers, 2 emotions" in told
    assert " s per 1000 files" in told
    assert _serkd(monkeypatch, "doctor", "[b]/m.parquet") == 0
    shown = capsys.readouterr().out
    for text in (told, shown):
        assert all(name in text for name in ("[/x]", "[bold]"))
    assert all(f"[red]s{i}" in shown for i in range(4))
    assert "[b]/m.parquet: 0 errors" in shown
