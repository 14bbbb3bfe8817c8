"""What audio files are like: readable, unchanged, silent, clipped; and their fingerprints."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from serkd.corpora.audio import SAMPLE_RATE_HZ, Decoded, centre_channel, is_file, read_audio
from serkd.corpora.fingerprint import Codes, compute_codes
from serkd.corpora.manifest import Utterance
from serkd.errors import InputError

SILENT_PEAK = 1e-3  # -60 dBFS
_QUIET_PEAK = 10 ** (-30 / 20)  # below it steps of the quantiser look like flat tops
_MIN_RUN = 3  # samples of a flat top
_MIN_PILE = 4  # times as many samples on the rail as on the level beneath it
_MAX_WAITING = 64  # files in work or waiting to be taken

_Samples = NDArray[np.float32]


@dataclass(frozen=True)
class FileFacts:
    """What is known of an utterance's file.

    `peak` is half the range of the mono waveform, so that an offset alone is silence;
    `flat_share` is the share of samples on flat tops, see `compute_flat_share`; `codes` is the
    fingerprint of whatever is not silent. All are empty when `problem` says why the file cannot
    be used.
    """

    utt_id: str
    is_missing: bool = False
    problem: str = ""
    sha256: str = ""
    sample_rate: int = 0
    num_channels: int = 0
    peak: float = 0.0
    flat_share: float = 0.0
    codes: Codes = field(default_factory=lambda: np.zeros(0, np.uint32), repr=False, compare=False)


def examine_files(
    utterances: Sequence[Utterance], progress: Callable[[int, int], None] = lambda done, total: None
) -> list[FileFacts]:
    """Read every file, several at a time; what is kept of a second of sound is 500 bytes."""
    facts: list[FileFacts] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in _chunks(utterances):
            for found in pool.map(examine_file, chunk):
                facts.append(found)
                progress(len(facts), len(utterances))
    return facts


def _chunks(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    rest = iter(utterances)
    while chunk := list(islice(rest, _MAX_WAITING)):
        yield chunk


def examine_file(utterance: Utterance) -> FileFacts:
    """Read one utterance's file; what is wrong with it is a fact too."""
    path = Path(utterance.path)
    if not is_file(path):
        return FileFacts(
            utterance.utt_id, is_missing=True, problem=f"{path}: there is no such file"
        )
    try:
        decoded = read_audio(path)
    except InputError as error:
        return FileFacts(utterance.utt_id, problem=str(error))
    peak = float(decoded.waveform.max() - decoded.waveform.min()) / 2
    is_silent = peak < SILENT_PEAK
    return FileFacts(
        utterance.utt_id,
        sha256=decoded.sha256,
        sample_rate=decoded.sample_rate,
        num_channels=decoded.num_channels,
        peak=peak,
        flat_share=max(compute_flat_share(channel) for channel in _channels(path, decoded)),
        codes=compute_codes(decoded.waveform[:0] if is_silent else decoded.waveform),
    )


def _channels(path: Path, decoded: Decoded) -> list[_Samples]:
    """The channels that are mixed, as they are in the file: resampling rounds flat tops off."""
    if decoded.num_channels == 1 and decoded.sample_rate == SAMPLE_RATE_HZ:
        return [decoded.waveform]
    with soundfile.SoundFile(path) as file:
        centre = centre_channel(file)
        pcm = file.read(dtype="float32", always_2d=True)
    return list(pcm.T) if centre is None else [pcm[:, centre]]


def compute_flat_share(samples: _Samples) -> float:
    """Share of samples (T,) in runs of three or more at the file's own highest or lowest value.

    Own, because a clipped recording is often turned down afterwards. 0 when the peak is below
    -30 dBFS, and for a rail that holds no more than four times the samples of the level beneath
    it: coarse quantisation (8 bits, mu-law) widens ordinary peaks, but every level alike.
    """
    peak = float(np.abs(samples).max())
    if peak < _QUIET_PEAK:
        return 0.0
    rails = (side for side in (samples, -samples) if side.max() >= peak / 2)
    return sum(_num_flat(side) for side in rails) / len(samples)


def _num_flat(samples: _Samples) -> int:
    """Samples in flat tops at the maximum."""
    top = samples.max()
    on_top = samples == top
    beneath = samples[~on_top]
    if beneath.size and on_top.sum() <= _MIN_PILE * (beneath == beneath.max()).sum():
        return 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on_top, [False]]).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= _MIN_RUN].sum())
