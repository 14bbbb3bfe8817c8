"""Audio that cannot be used: all of it is named, nothing else is lost, and a repair is enough."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from serkd.corpora.audio import Cut
from serkd.corpora.manifest import Manifest, Utterance
from serkd.errors import InputError
from serkd.events import Observer
from serkd.features.encoders import LogMelEncoder
from serkd.features.extract import EXTRACT_INFO, Sink, extract_frames
from serkd.features.parts import AudioPart, Part
from serkd.features.quarantine import QUARANTINE, BadFile, QuarantineError, refuse_bad
from serkd.features.store import list_parts, part_path, read_frames

_RULES = {
    "missing": "there is none",
    "changed": "must be the audio that the manifest describes",
    "torn": "must be readable audio",
    "empty": "must be readable audio",
}
_BAD = {3: "missing", 5: "changed", 30: "torn", 40: "empty"}  # parts 0, 2 and 3 of twelve each


def _run(parts: Sequence[Part], folder: Path, num_actors: int = 0) -> None:
    extract_frames(
        "test", parts, LogMelEncoder(20, 50), {"logmel": Sink(folder, "logmel")},
        num_actors=num_actors, num_gpus=0.0, observer=Observer(),
    )  # fmt: skip


def _parts(rows: Sequence[Utterance]) -> list[Part]:
    return [AudioPart(tuple(rows[i : i + 12]), Cut(30.0)) for i in range(0, len(rows), 12)]


def _damage(path: Path, kind: str) -> None:
    if kind == "missing":
        path.unlink()
    elif kind == "changed":
        pcm, rate = soundfile.read(path, dtype="int16")
        pcm[100] += 1  # one sample, by one
        soundfile.write(path, pcm, rate, subtype="PCM_16")
    else:
        content = path.read_bytes()
        path.write_bytes(content[:8] if kind == "torn" else b"")


@pytest.fixture
def copies(manifest: Manifest, tmp_path: Path) -> list[Utterance]:
    """The corpus, with files of its own that a test may spoil."""
    (tmp_path / "audio").mkdir()
    rows = []
    for utterance in manifest.utterances:
        path = tmp_path / "audio" / Path(utterance.path).name
        shutil.copyfile(utterance.path, path)
        shutil.copyfile(utterance.path, path.with_suffix(".original"))
        rows.append(replace(utterance, path=str(path)))
    return rows


@pytest.mark.parametrize("num_actors", [0, 1], ids=["here", "ray"])
def test_every_bad_file_is_named_and_the_other_parts_are_kept(
    copies: list[Utterance], tmp_path: Path, num_actors: int, ray_cluster: None
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    _run(_parts(copies), whole)
    for index, kind in _BAD.items():
        _damage(Path(copies[index].path), kind)
    with pytest.raises(QuarantineError) as caught:
        _run(_parts(copies), out, num_actors)
    *lines, last = str(caught.value).splitlines()
    listed = json.loads((out / QUARANTINE).read_text())
    assert str(out / QUARANTINE) in last
    assert last.startswith("4 file(s) must be repaired")
    assert [file["utt_id"] for file in listed] == [copies[index].utt_id for index in _BAD]
    for line, file, (index, kind) in zip(lines, listed, _BAD.items(), strict=True):
        assert line == file["problem"]
        assert line.startswith(file["path"]) and file["path"] == copies[index].path
        assert _RULES[kind] in line
    assert list_parts(out) == [part_path(out, 1)]
    assert {path.name for path in out.iterdir()} == {"part-00001.parquet", QUARANTINE}
    # what is finished stays as it is; what was bad is computed once it is repaired
    inode = part_path(out, 1).stat().st_ino
    for index, kind in _BAD.items():
        if kind != "empty":
            _repair(Path(copies[index].path))
    with pytest.raises(QuarantineError, match=r"(?s)must be readable audio.*1 file\(s\) must be"):
        _run(_parts(copies), out)
    assert len(list_parts(out)) == 3
    _repair(Path(copies[40].path))
    _run(_parts(copies), out)
    assert part_path(out, 1).stat().st_ino == inode
    assert {path.name for path in out.iterdir()} == {p.name for p in whole.iterdir()}
    for path in list_parts(whole):
        assert (out / path.name).read_bytes() == path.read_bytes()
    info = json.loads((out / EXTRACT_INFO).read_text())
    assert (info["num_utterances"], info["num_stored"]) == (12, 36)


def _repair(path: Path) -> None:
    shutil.copyfile(path.with_suffix(".original"), path)


def test_a_long_list_is_shortened_in_the_message_only(tmp_path: Path) -> None:
    bad = [BadFile(f"u{i}", f"/a/{i}.wav", f"/a/{i}.wav: must be there") for i in range(50)]
    with pytest.raises(InputError) as caught:
        refuse_bad(bad, [tmp_path])
    lines = str(caught.value).splitlines()
    assert lines[:2] == ["/a/0.wav: must be there", "/a/1.wav: must be there"]
    assert lines[-2] == "... and 30 more"
    assert len(lines) == 22
    assert len(json.loads((tmp_path / QUARANTINE).read_text())) == 50


def test_no_bad_file_leaves_no_list(tmp_path: Path) -> None:
    (tmp_path / QUARANTINE).write_text("[]")  # of an earlier run
    refuse_bad([], [tmp_path])
    assert not list(tmp_path.iterdir())


def test_what_a_run_did_is_written_down(copies: list[Utterance], tmp_path: Path) -> None:
    _run(_parts(copies), tmp_path / "out")
    info = json.loads((tmp_path / "out" / EXTRACT_INFO).read_text())
    assert info["num_utterances"] == len(copies) == 48
    assert info["num_stored"] == 0
    assert info["audio_s"] == pytest.approx(sum(u.duration_s for u in copies))
    assert info["seconds"] > 0
    # a run that finds everything done does not forget it
    _run(_parts(copies), tmp_path / "out")
    assert json.loads((tmp_path / "out" / EXTRACT_INFO).read_text()) == info
    assert len(read_frames(tmp_path / "out", "logmel")) == 48
