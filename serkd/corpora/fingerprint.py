"""Recordings that are the same sound, however they were encoded: fingerprints and their pairing.

After Haitsma & Kalker, "A highly robust audio fingerprinting system" (ISMIR 2002): 32 bits a frame
are the signs of differences of band energies between neighbouring bands and frames (their eq. 1).
Equal codes propose pairs, the share of wrong bits over the overlap decides. Departures: shorter
frames (256 ms instead of 370 ms; utterances are short), quiet frames have no code, and stricter
error rates, because a corpus of acted speech holds takes of one sentence by one speaker.
A gain, a codec, another sample rate and another beginning or end leave a match; another speed or
pitch does not, and neither does a clip with less than half a second of sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy.fft import rfft

from serkd.corpora.audio import SAMPLE_RATE_HZ

HOP_S = 0.008
_RATE_HZ = 5_000
_HOP = 40  # samples: 8 ms
_WINDOW = 1280  # 256 ms
_BAND_EDGES_HZ = np.geomspace(300.0, 2000.0, 34)  # their range: 33 bands
_QUIET = 1e-4  # power relative to the loudest frame: -40 dB
_SILENCE = (1e-4 * _WINDOW / 4) ** 2  # power of a sine at -80 dBFS in a Hann window
_BLOCK_FRAMES = 256

_NEIGHBOURS = 8  # entries with the same code that each is compared with
_LOCAL_FRAMES = 16  # on either side of an equal code
_LOCAL_ERROR = 0.3
_CHUNK = 1 << 18

# Of all 20,880 pairs of takes of one sentence by one RAVDESS actor (one clip that is there twice
# aside) the most alike have an error rate of 0.25, in their loudest half second 0.18. Vorbis at
# its lowest quality, 8 kHz mu-law or noise at 20 dB leave at most 0.14, MP3 at its lowest 0.2.
MAX_ERROR = 0.2
MAX_ERROR_SHORT = 0.1
_SHORT_FRAMES = 64
_MIN_FRAMES = 30
_MIN_SHARE = 0.5  # of the shorter one's codes

Codes = NDArray[np.uint32]
_Ints = NDArray[np.int64]


_BAND_STARTS = np.searchsorted(np.arange(_WINDOW // 2 + 1) * _RATE_HZ / _WINDOW, _BAND_EDGES_HZ)
_HANN = np.hanning(_WINDOW).astype(np.float32)
_ONES = np.array([value.bit_count() for value in range(1 << 16)], np.uint8)


def compute_codes(waveform: NDArray[np.float32]) -> Codes:
    """Sub-fingerprints of a 16 kHz waveform (T,), one each 8 ms: (F,), 0 where it is quiet."""
    slow = soxr.resample(waveform, SAMPLE_RATE_HZ, _RATE_HZ, quality="HQ")
    if len(slow) < _WINDOW + _HOP:
        return np.zeros(0, np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(slow, _WINDOW)[::_HOP]
    blocks = [
        _energies(frames[start : start + _BLOCK_FRAMES])
        for start in range(0, len(frames), _BLOCK_FRAMES)
    ]
    energy = np.concatenate(blocks)  # (frames, 33)
    power = energy.sum(axis=1)
    is_loud = power > max(_QUIET * float(power.max()), _SILENCE)
    tilt = energy[:, :-1] - energy[:, 1:]
    bits = tilt[1:] > tilt[:-1]  # (F, 32)
    codes = np.packbits(bits, axis=1).view(">u4")[:, 0].astype(np.uint32)
    return np.where(is_loud[1:] & is_loud[:-1], codes, np.uint32(0))


def _energies(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    spectrum = rfft(frames * _HANN, axis=1)
    first, last = _BAND_STARTS[0], _BAND_STARTS[-1]
    power = spectrum.real[:, first:last] ** 2 + spectrum.imag[:, first:last] ** 2
    return np.add.reduceat(power, _BAND_STARTS[:-1] - first, axis=1)


@dataclass(frozen=True)
class Match:
    """Two recordings that share sound: numbers `first` < `second` of a list of codes.

    `offset_frames` is where the second begins in the first; `error_rate` is the share of wrong
    bits over the `num_frames` frames where both have codes.
    """

    first: int
    second: int
    offset_frames: int
    num_frames: int
    error_rate: float


def find_matches(recordings: Sequence[Codes]) -> list[Match]:
    """All pairs of recordings that are the same sound over half of the shorter one.

    The work grows with the number of codes, not of pairs: an entry is compared with the next
    few that have the same code. Of many copies each is therefore paired with some others only.
    """
    index = _Index(recordings)
    best: dict[tuple[int, int], Match] = {}
    for i, j, offset in index.propose():
        for shift in range(offset - 2, offset + 3):
            match = _compare(recordings[i], recordings[j], i, j, shift)
            known = best.get((i, j))
            if match and (known is None or match.error_rate < known.error_rate):
                best[i, j] = match
    return [best[pair] for pair in sorted(best)]


def _compare(first: Codes, second: Codes, i: int, j: int, offset: int) -> Match | None:
    begin, end = max(0, offset), min(len(first), offset + len(second))
    if begin >= end:
        return None
    ours, theirs = first[begin:end], second[begin - offset : end - offset]
    both = (ours != 0) & (theirs != 0)
    count = int(both.sum())
    shortest = min(np.count_nonzero(first), np.count_nonzero(second))
    if count < max(_MIN_FRAMES, _MIN_SHARE * shortest):
        return None
    rate = int(_num_wrong(ours[both], theirs[both]).sum()) / (32 * count)
    if rate > (MAX_ERROR if count >= _SHORT_FRAMES else MAX_ERROR_SHORT):
        return None
    return Match(i, j, offset, count, rate)


def _num_wrong(ours: Codes, theirs: Codes) -> NDArray[np.uint8]:
    """Bits that differ, by a table: numpy 1.26 counts no bits."""
    wrong = ours ^ theirs
    return _ONES[wrong & 0xFFFF] + _ONES[wrong >> 16]


class _Index:
    """All codes in one array, a gap of zeros between recordings."""

    def __init__(self, recordings: Sequence[Codes]) -> None:
        gap = np.zeros(_LOCAL_FRAMES, np.uint32)
        self.codes = np.concatenate([gap, *(part for codes in recordings for part in (codes, gap))])
        lengths = np.array([len(codes) + len(gap) for codes in recordings], np.int64)
        self.starts = np.cumsum(lengths) - lengths + len(gap)
        self.num_recordings = len(recordings)

    def propose(self) -> list[tuple[int, int, int]]:
        """Pairs of recordings and offsets around which their codes agree."""
        if not self.num_recordings:
            return []
        ours, theirs = self._same_codes()
        is_likely = self._agree(ours, theirs)
        ours, theirs = ours[is_likely], theirs[is_likely]
        first, second = self._owner(ours), self._owner(theirs)
        offset = (ours - self.starts[first]) - (theirs - self.starts[second])
        return sorted(set(zip(first.tolist(), second.tolist(), offset.tolist(), strict=True)))

    def _same_codes(self) -> tuple[_Ints, _Ints]:
        """Places in two recordings that have the same code, the earlier recording first."""
        # speech moves slowly: of a run of one code its beginning is enough
        places = np.flatnonzero((self.codes != 0) & (self.codes != np.roll(self.codes, 1)))
        places = places[np.argsort(self.codes[places], kind="stable")]
        codes, owners = self.codes[places], self._owner(places)
        found = []
        for step in range(1, _NEIGHBOURS + 1):
            same = (codes[step:] == codes[:-step]) & (owners[step:] != owners[:-step])
            at = np.flatnonzero(same)
            found.append((places[at], places[at + step]))
        return (
            np.concatenate([ours for ours, _ in found]),
            np.concatenate([theirs for _, theirs in found]),
        )

    def _owner(self, places: _Ints) -> _Ints:
        return np.searchsorted(self.starts, places, side="right") - 1

    def _agree(self, ours: _Ints, theirs: _Ints) -> NDArray[np.bool_]:
        """Whether the codes around two places agree, quickly: (N,) and (N,) to (N,)."""
        parts = [
            self._agree_chunk(ours[start : start + _CHUNK], theirs[start : start + _CHUNK])
            for start in range(0, len(ours), _CHUNK)
        ]
        return np.concatenate([np.zeros(0, np.bool_), *parts])

    def _agree_chunk(self, ours: _Ints, theirs: _Ints) -> NDArray[np.bool_]:
        wrong, frames = np.zeros(len(ours), np.int64), np.zeros(len(ours), np.int64)
        for step in range(-_LOCAL_FRAMES, _LOCAL_FRAMES + 1):
            a, b = self.codes[ours + step], self.codes[theirs + step]
            both = (a != 0) & (b != 0)
            wrong += np.where(both, _num_wrong(a, b), 0)
            frames += both
        is_long = frames >= _MIN_FRAMES // 2
        return is_long & (wrong <= _LOCAL_ERROR * 32 * frames)
