"""Fingerprints: what leaves a match and what does not, against a search without shortcuts."""

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkd.corpora.audio import read_audio
from serkd.corpora.fingerprint import HOP_S, MAX_ERROR, Codes, compute_codes, find_matches
from serkd.corpora.manifest import Manifest
from serkd.corpora.ravdess import scan

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_RAVDESS = _SHARED / "data" / "ravdess"


def _speech(manifest: Manifest, index: int) -> np.ndarray:
    return soundfile.read(manifest.utterances[index].path, dtype="float32")[0]


def _error_rate(first: Codes, second: Codes) -> float:
    both = (first != 0) & (second != 0)
    wrong = sum(int(bits).bit_count() for bits in first[both] ^ second[both])
    return wrong / (32 * both.sum())


def test_codes_do_not_depend_on_level_and_move_with_the_sound(manifest: Manifest) -> None:
    waveform = _speech(manifest, 0)
    codes = compute_codes(waveform)
    assert (codes != 0).sum() > 50
    assert np.array_equal(compute_codes(waveform * 0.25), codes)
    late = compute_codes(np.concatenate([np.zeros(16_000, np.float32), waveform]))
    shift = round(1.0 / HOP_S)
    assert _error_rate(late[shift : shift + len(codes)], codes) < 0.01


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(0, np.float32),
        np.zeros(32_000, np.float32),
        np.full(32_000, 0.3, np.float32),
        np.full(100, 0.3, np.float32),
    ],
    ids=["empty", "zeros", "offset", "short"],
)
def test_silence_has_no_codes_and_no_matches(waveform: np.ndarray) -> None:
    codes = compute_codes(waveform)
    inner = codes[40:-40]  # a constant begins and ends with a step
    assert not inner.any()
    assert find_matches([codes * 0, codes * 0]) == []


def _random_codes(rng: np.random.Generator, count: int) -> Codes:
    """Slowly moving codes with pauses, as speech has."""
    steps = rng.integers(1, 2**32, count, dtype=np.uint32)
    codes = np.repeat(steps, 3)[:count]
    codes[rng.random(count) < 0.1] = 0
    return codes


def _flip(codes: Codes, share: float, rng: np.random.Generator) -> Codes:
    bits = rng.random((len(codes), 32)) < share
    noise = np.packbits(bits, axis=1).view(">u4")[:, 0].astype(np.uint32)
    return np.where(codes == 0, codes, codes ^ noise)


def _search_everywhere(recordings: list[Codes]) -> dict[tuple[int, int], int]:
    """The best offset of every pair, all offsets tried, where enough bits agree."""
    found = {}
    for i, j in combinations(range(len(recordings)), 2):
        first, second = recordings[i], recordings[j]
        shortest = min(np.count_nonzero(first), np.count_nonzero(second))
        rates = {}
        for offset in range(-len(second), len(first)):
            begin, end = max(0, offset), min(len(first), offset + len(second))
            ours, theirs = first[begin:end], second[begin - offset : end - offset]
            if ((ours != 0) & (theirs != 0)).sum() >= max(64, 0.5 * shortest):
                rates[offset] = _error_rate(ours, theirs)
        if rates and min(rates.values()) <= MAX_ERROR:
            found[i, j] = min(rates, key=rates.__getitem__)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_an_exhaustive_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    originals = [_random_codes(rng, 200) for _ in range(8)]
    copies = [
        _flip(originals[0], 0.1, rng),
        _flip(originals[1][40:], 0.05, rng),
        np.concatenate([_random_codes(rng, 70), _flip(originals[2], 0.05, rng)]),
        _flip(originals[3], 0.35, rng),  # too different
        originals[4][:25],  # too little of it
        np.concatenate([originals[5][:80], _random_codes(rng, 150)]),  # too little in common
    ]
    recordings = originals + copies
    found = {(m.first, m.second): m.offset_frames for m in find_matches(recordings)}
    expected = _search_everywhere(recordings)
    assert found == expected
    assert found == {(0, 8): 0, (1, 9): 40, (2, 10): -70}


def test_many_copies_of_one_recording_hang_together() -> None:
    rng = np.random.default_rng(0)
    original = _random_codes(rng, 200)
    recordings = []
    for _ in range(60):
        recordings += [_flip(original, 0.05, rng), _random_codes(rng, 200)]
    groups = list(range(len(recordings)))
    for match in find_matches(recordings):
        old, new = groups[match.second], groups[match.first]
        groups = [new if group == old else group for group in groups]
    assert len({groups[i] for i in range(0, len(groups), 2)}) == 1
    assert len({groups[i] for i in range(1, len(groups), 2)}) == 60


@pytest.mark.real
@pytest.mark.skipif(not _RAVDESS.is_dir(), reason="SERKD_REAL_DATA holds no real data")
def test_takes_of_one_sentence_by_one_actor_are_no_copies() -> None:
    # the most alike takes of the corpus are these actors'
    clips = [s for s in scan(_RAVDESS).sources if s.speaker_id in ("02", "23", "24")]
    codes = [compute_codes(read_audio(clip.path).waveform) for clip in clips]
    assert len(codes) == 180
    assert find_matches(codes) == []
    again = compute_codes(0.3 * read_audio(clips[7].path).waveform[5_000:])
    (match,) = find_matches([*codes, again])
    assert (match.first, match.second) == (7, 180)
    assert match.offset_frames * HOP_S == pytest.approx(5_000 / 16_000, abs=2 * HOP_S)
