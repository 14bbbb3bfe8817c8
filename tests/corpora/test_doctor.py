"""The doctor finds every planted defect, by name, and nothing else."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serkd.corpora.build import Limits, Listing, SourceUtterance, build_manifest
from serkd.corpora.doctor import diagnose
from serkd.corpora.examine import FileFacts, examine_files
from serkd.corpora.manifest import Manifest, make_manifest
from serkd.corpora.ravdess import scan

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_RAVDESS = _SHARED / "data" / "ravdess"
_LIMITS = Limits(min_s=0.5, max_s=6.0)
_SPLITS = {"0": "train", "1": "train", "2": "dev", "3": "dev", "4": "test", "5": "test"}


@dataclass
class Patient:
    """A copy of the synthetic corpus to damage: rows by id, and utterances nobody touched yet."""

    rows: dict[str, SourceUtterance]
    untouched: list[str]
    rng: np.random.Generator

    def take(self) -> str:
        return self.untouched.pop(int(self.rng.integers(len(self.untouched))))

    def read(self, utt_id: str) -> np.ndarray:
        return soundfile.read(self.rows[utt_id].path)[0]

    def write(self, utt_id: str, samples: np.ndarray, rate: int = 16_000) -> None:
        soundfile.write(self.rows[utt_id].path, samples, rate)


Expected = tuple[str, frozenset[str]]
# plants one defect before or after the manifest is written, and says what must be found
Plant = Callable[[Patient], Expected]


def _exact_copy(patient: Patient) -> Expected:
    first, second = patient.take(), patient.take()
    patient.rows[second].path.write_bytes(patient.rows[first].path.read_bytes())
    return "duplicate", frozenset({first, second})


def _near_copy(change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    def plant(patient: Patient) -> Expected:
        first, second = patient.take(), patient.take()
        patient.write(second, change(patient.read(first)))
        return "near_duplicate", frozenset({first, second})

    return plant


def _vorbis_copy(patient: Patient) -> Expected:
    first, second = patient.take(), patient.take()
    path = patient.rows[second].path.with_suffix(".ogg")
    soundfile.write(path, patient.read(first), 16_000)
    patient.rows[second] = replace(patient.rows[second], path=path)
    return "near_duplicate", frozenset({first, second})


def _telephone(samples: np.ndarray) -> np.ndarray:
    return soxr.resample(soxr.resample(samples, 16_000, 8_000), 8_000, 16_000)


def _into_longer(samples: np.ndarray) -> np.ndarray:
    """Between a second of noise on either side."""
    noise = 0.2 * samples.std() * np.random.default_rng(5).standard_normal((2, 16_000))
    return np.concatenate([noise[0], samples, noise[1]])


def _changed(kind: str, change: Callable[[np.ndarray], np.ndarray], rate: int = 16_000) -> Plant:
    def plant(patient: Patient) -> Expected:
        utt_id = patient.take()
        patient.write(utt_id, change(patient.read(utt_id)), rate)
        return kind, frozenset({utt_id})

    return plant


def _clip(samples: np.ndarray) -> np.ndarray:
    scaled = samples / np.abs(samples).max()
    return 0.5 * np.clip(scaled, -0.3, 0.3) / 0.3


def _other_split(patient: Patient) -> Expected:
    utt_id = patient.take()
    row = patient.rows[utt_id]
    patient.rows[utt_id] = replace(row, split="test" if row.split != "test" else "dev")
    return "speaker_in_splits", _all_of(patient, row.speaker_id)


def _all_of(patient: Patient, speaker: str) -> frozenset[str]:
    return frozenset(name for name, row in patient.rows.items() if row.speaker_id == speaker)


_BEFORE: dict[str, Plant] = {
    "exact copy": _exact_copy,
    "vorbis copy": _vorbis_copy,
    "quieter copy": _near_copy(lambda x: 0.3 * x),
    "later copy": _near_copy(lambda x: x[3_217:]),
    "telephone copy": _near_copy(_telephone),
    "part of a longer one": _near_copy(_into_longer),
    "zeros": _changed("silent", lambda x: np.zeros(12_345)),
    "offset and faint noise": _changed(
        "silent", lambda x: 0.3 + 9e-4 * np.random.default_rng(2).uniform(-1, 1, 20_000)
    ),
    "clipped": _changed("clipped", _clip),
    "too short": _changed("too_short", lambda x: x[6_000:11_000]),
    "too long": _changed("too_long", lambda x: np.tile(x, 8)[: 7 * 16_000]),
    "other rate": _changed("mixed_formats", lambda x: soxr.resample(x, 16_000, 22_050), 22_050),
    "stereo": _changed("mixed_formats", lambda x: np.stack([x, 0.5 * x], axis=1)),
    "other split": _other_split,
}


def _delete(patient: Patient) -> Expected:
    utt_id = patient.take()
    patient.rows[utt_id].path.unlink()
    return "missing", frozenset({utt_id})


def _truncate(patient: Patient) -> Expected:
    utt_id = patient.take()
    path = patient.rows[utt_id].path
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "unreadable", frozenset({utt_id})


def _not_finite(patient: Patient) -> Expected:
    utt_id = patient.take()
    samples = patient.read(utt_id)
    samples[100] = np.inf
    soundfile.write(patient.rows[utt_id].path, samples, 16_000, format="WAV", subtype="FLOAT")
    return "unreadable", frozenset({utt_id})


_AFTER: dict[str, Plant] = {
    "deleted": _delete,
    "truncated": _truncate,
    "not finite": _not_finite,
    "other audio": _changed("changed", lambda x: 0.1 * np.random.default_rng(1).random(30_000)),
}
_IN_MANIFEST = "other gender"
_TOGETHER = ("missing", "changed", "silent", "clipped", "too_short", "too_long", "mixed_formats")


def _level(kind: str, ids: frozenset[str], manifest: Manifest) -> str:
    rows = [manifest.by_id[utt_id] for utt_id in ids]
    if kind in ("duplicate", "near_duplicate"):
        apart = {"speaker_id", "split"} | ({"emotion"} if kind == "duplicate" else set())
        return "error" if any(len({getattr(u, f) for u in rows}) > 1 for f in apart) else "warning"
    is_warning = kind in ("silent", "clipped", "too_short", "too_long", "mixed_formats")
    return "warning" if is_warning else "error"


def _operate(healthy: Manifest, folder: Path, defects: Sequence[str], seed: int) -> None:
    """Plant the defects and compare the findings."""
    rows = {}
    for u in healthy.utterances:
        path = folder / Path(u.path).name
        path.write_bytes(Path(u.path).read_bytes())
        rows[u.utt_id] = SourceUtterance(
            u.utt_id, path, "own", u.speaker_id, u.gender, u.session, u.emotion,
            split=_SPLITS[u.speaker_id[-1]],
        )  # fmt: skip
    patient = Patient(rows, sorted(rows), np.random.default_rng(seed))
    expected = [_BEFORE[name](patient) for name in defects if name in _BEFORE]
    manifest = build_manifest(Listing(list(patient.rows.values())))
    expected += [_AFTER[name](patient) for name in defects if name in _AFTER]
    if _IN_MANIFEST in defects:
        victim = manifest.by_id[patient.take()]
        flipped = "male" if victim.gender == "female" else "female"
        changed = {victim.utt_id: replace(victim, gender=flipped)}
        manifest = make_manifest(changed.get(u.utt_id, u) for u in manifest.utterances)
        expected.append(("two_genders", _all_of(patient, victim.speaker_id)))
    found = diagnose(manifest, examine_files(manifest.utterances), _LIMITS)
    serious = {(f.level, f.kind, frozenset(f.utt_ids)) for f in found if f.level != "note"}
    merged = _merge(expected)
    assert serious == {(_level(kind, ids, manifest), kind, ids) for kind, ids in merged}


def _merge(expected: Sequence[Expected]) -> set[Expected]:
    """One finding names all files with the same of these defects."""
    merged = {(kind, ids) for kind, ids in expected if kind not in _TOGETHER}
    for together in _TOGETHER:
        if ids := frozenset().union(*(ids for kind, ids in expected if kind == together)):
            merged.add((together, ids))
    return merged


_ALL = (*_BEFORE, *_AFTER, _IN_MANIFEST)


@settings(max_examples=15, deadline=None)
@given(defects=st.sets(st.sampled_from(_ALL)), seed=st.integers(0, 2**32 - 1))
@example(defects=set(), seed=0)
@example(defects=set(_ALL), seed=0)
def test_exactly_the_planted_defects_are_found(
    manifest: Manifest, defects: set[str], seed: int
) -> None:
    with TemporaryDirectory() as folder:
        _operate(manifest, Path(folder), sorted(defects), seed)


def test_many_copies_are_told_in_a_line(manifest: Manifest) -> None:
    rows = [replace(u, sha256="00") for u in manifest.utterances]
    files = [FileFacts(u.utt_id, sha256="00", sample_rate=16_000, num_channels=1) for u in rows]
    (finding,) = [f for f in diagnose(make_manifest(rows), files) if f.kind == "duplicate"]
    assert f"and {len(rows) - 3} more are the same samples" in finding.message
    assert len(finding.message) < 300
    assert set(finding.utt_ids) == set(manifest.by_id)


def test_a_format_that_gives_an_emotion_away_is_called_a_trap(
    manifest: Manifest, tmp_path: Path
) -> None:
    rows = []
    for u in manifest.utterances:
        rate = 8_000 if u.emotion == "sad" else 16_000
        path = tmp_path / f"{u.utt_id}.wav"
        soundfile.write(path, soxr.resample(soundfile.read(u.path)[0], 16_000, rate), rate)
        rows.append(SourceUtterance(u.utt_id, path, "own", u.speaker_id, u.gender, "", u.emotion))
    mixed = build_manifest(Listing(rows))
    found = diagnose(mixed, examine_files(mixed.utterances))
    (finding,) = [f for f in found if f.kind == "mixed_formats"]
    assert "the emotion (Cramér's V 1.00)" in finding.message
    assert "gender" not in finding.message
    assert set(finding.utt_ids) == {u.utt_id for u in mixed.utterances if u.emotion == "sad"}


@pytest.mark.real
@pytest.mark.skipif(not _RAVDESS.is_dir(), reason="SERKD_REAL_DATA holds no real data")
def test_ravdess_has_one_clip_twice_and_no_other_defect() -> None:
    manifest = build_manifest(scan(_RAVDESS))
    found = diagnose(manifest, examine_files(manifest.utterances))
    serious = [(f.level, f.kind, f.utt_ids) for f in found if f.level != "note"]
    pair = ("03-01-03-01-02-01-07", "03-01-03-01-02-02-07")
    assert serious == [("warning", "duplicate", pair)]
