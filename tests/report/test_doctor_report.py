"""What the doctor found, on a page, on a terminal, as JSON, and as an exit code."""

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from serkd.cli import main
from serkd.corpora.doctor import diagnose
from serkd.corpora.examine import FileFacts, examine_files
from serkd.corpora.findings import Finding
from serkd.corpora.manifest import Manifest, make_manifest, read_manifest, write_manifest
from serkd.report.doctor import Diagnosis, print_diagnosis, speakers_table
from serkd.report.doctor_html import render_page

_NASTY = 'a<script>alert("1")</script>&'
_VOID = {"meta", "rect", "line", "br"}


@pytest.fixture(scope="module")
def sick(manifest: Manifest) -> Diagnosis:
    """Official splits without a class, a speaker in two of them, ids and names that are markup."""
    rows = []
    for i, u in enumerate(manifest.utterances):
        speaker = _NASTY if u.speaker_id == "f00" else u.speaker_id
        split = ("train", "dev", "test")[int(u.speaker_id[1:]) // 2]
        if (split, u.emotion) == ("dev", "sad"):
            continue
        moved = replace(u, speaker_id=speaker, split="test" if i == 0 else split)
        rows.append(replace(moved, utt_id=f"{_NASTY}{i}" if i < 9 else u.utt_id))
    changed = make_manifest(rows, excluded=[_NASTY])
    files = examine_files(changed.utterances)
    return Diagnosis(Path("sick.parquet"), changed, files, diagnose(changed, files))


class _Checker(HTMLParser):
    """Collects tags and text; fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _read(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert checker.stack == []
    return checker


def test_the_page_is_whole_names_everything_and_runs_nothing(sick: Diagnosis) -> None:
    page = render_page(sick)
    read = _read(page)
    assert "script" not in read.tags
    assert read.links == []
    assert not re.search(r"https?:|@import|url\(", page)
    text = "".join(read.text)
    assert {finding.level for finding in sick.findings} == {"error", "warning", "note"}
    for finding in sick.findings:
        assert finding.message in text
        assert all(utt_id in text for utt_id in finding.utt_ids)
    assert all(name in text for name in sick.manifest.class_names)
    assert _NASTY in text


def test_a_corpus_of_nothing_can_be_shown() -> None:
    empty = Diagnosis(Path("empty.parquet"), make_manifest([]), [], diagnose(make_manifest([]), []))
    _read(render_page(empty))
    console = Console(file=StringIO(), width=120)
    print_diagnosis(console, empty)
    assert not empty.is_sound


def test_json_has_every_utterance_of_every_finding(sick: Diagnosis) -> None:
    record = json.loads(json.dumps(sick.record()))
    assert [f["utt_ids"] for f in record["findings"]] == [list(f.utt_ids) for f in sick.findings]
    assert record["num_findings"]["error"] == sum(f.level == "error" for f in sick.findings) > 0
    assert record["is_sound"] is False
    table = {row["emotion"]: row for row in record["classes"]}
    assert table["all"]["utterances"] == len(sick.manifest.utterances)
    assert table["sad"]["splits"].get("dev", 0) == 0
    by_speaker = {row["speaker_id"]: sum(row["emotions"].values()) for row in record["speakers"]}
    assert sum(by_speaker.values()) == len(sick.manifest.utterances)


def test_the_terminal_shortens_what_is_alike(manifest: Manifest) -> None:
    ids = tuple(u.utt_id for u in manifest.utterances)
    alike = [Finding("error", "duplicate", f"[b]pair {i}[/b]", ids) for i in range(30)]
    files = [FileFacts(utt_id, sample_rate=16_000, num_channels=1) for utt_id in ids]
    out = StringIO()
    print_diagnosis(
        Console(file=out, width=160), Diagnosis(Path("m.parquet"), manifest, files, alike)
    )
    shown = out.getvalue()
    assert "[b]pair 0[/b]" in shown  # brackets in names are no markup
    assert "pair 29" not in shown
    assert "and 25 more of this kind" in shown
    assert f"and {len(ids) - 3} more" in shown
    assert "30 errors, 0 warnings, 0 notes" in shown


def test_the_terminal_counts_by_speaker_gender_and_emotion(manifest: Manifest) -> None:
    files = [FileFacts(u.utt_id) for u in manifest.utterances]
    diagnosis = Diagnosis(Path("m.parquet"), manifest, files, [])
    table = speakers_table(diagnosis)
    columns = [list(column.cells) for column in table.columns]
    shown = {str(speaker): row for speaker, *row in zip(*columns, strict=True)}
    assert len(shown) == len({u.speaker_id for u in manifest.utterances})
    for speaker, (gender, *numbers) in shown.items():
        own = [u for u in manifest.utterances if u.speaker_id == speaker]
        assert {u.gender for u in own} == {gender}
        counts = Counter(u.emotion for u in own)
        assert [int(str(n)) for n in numbers] == [counts[n] for n in manifest.class_names]


def test_of_many_speakers_those_with_the_most_utterances_are_shown(manifest: Manifest) -> None:
    rows = [
        replace(manifest.utterances[0], utt_id=f"{i}_{j}", speaker_id=f"s{i:02d}")
        for i in range(33)
        for j in range(2 if i else 1)
    ]
    table = speakers_table(Diagnosis(Path("m.parquet"), make_manifest(rows), [], []))
    assert table.row_count == 30
    assert table.caption == "and 3 speakers with fewer utterances"
    assert "s00" not in map(str, table.columns[0].cells)


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["serkd", "doctor", *map(str, arguments)])
    try:
        main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_a_sound_corpus_ends_with_0_and_json_alone(
    manifest_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "new" / "page.html"
    assert _run(monkeypatch, manifest_path, "--json", "--html", page) == 0
    assert json.loads(capsys.readouterr().out)["num_findings"]["error"] == 0
    _read(page.read_text(encoding="utf-8"))
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    assert _run(monkeypatch, manifest_path, "--quiet", "--min-duration", "100") == 2
    assert _run(monkeypatch, manifest_path, "--quiet", "--min-duration", "1.5") == 0
    assert "too short" in capsys.readouterr().out


def test_an_error_ends_with_1(
    manifest_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = read_manifest(manifest_path)
    first, *others = manifest.utterances
    path = tmp_path / "m.parquet"
    write_manifest(make_manifest([replace(first, path="/nowhere.flac"), *others]), path)
    assert _run(monkeypatch, path, "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert [f["utt_ids"] for f in record["findings"] if f["level"] == "error"] == [[first.utt_id]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "must be given a manifest, or a backbone"),
        (("none.parquet",), "none.parquet: must be a manifest"),
        (("--backbone", "./none"), "must be a folder with a model"),
        (("--backbone", "tiny-hubert", "--html", "x.html"), "--html must be given for a manifest"),
    ],
)
def test_wrong_input_ends_with_2(
    arguments: Sequence[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_backbone_that_is_read_wrongly_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from serkd.features import selfcheck

    assert _run(monkeypatch, "--backbone", "tiny-hubert", "--json") == 0
    assert json.loads(capsys.readouterr().out)["is_sound"] is True
    monkeypatch.setattr(selfcheck, "MAX_RELATIVE", 0.0)  # so that rounding is too much
    assert _run(monkeypatch, "--backbone", "tiny-hubert", "--quiet") == 1
    assert "are not transformers'" in capsys.readouterr().out
