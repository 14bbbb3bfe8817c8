"""Audio files to mono 16 kHz waveforms: decoding, downmix and resampling, in one place."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from serkd.errors import InputError

SAMPLE_RATE_HZ = 16_000
MIN_DURATION_S = 0.1  # five frames; convolutional front ends need 25 ms, statistics need more
_CENTRE_OF_5_1 = 2  # FL FR C LFE BL BR: speech is mixed to the centre, laughter tracks around it


@dataclass(frozen=True)
class Decoded:
    """A decoded file.

    `waveform` is mono float32 in [-1, 1] at 16 kHz, shape (num_samples,). `sha256` is over the
    native PCM of all channels, so it depends neither on the container nor on the resampler.
    """

    waveform: np.ndarray
    sample_rate: int
    num_channels: int
    sha256: str

    @property
    def num_samples(self) -> int:
        return len(self.waveform)


def read_audio(path: Path) -> Decoded:
    """Decode one file.

    Raises:
        InputError: the file is missing, unreadable, not finite, or shorter than 0.1 s.
    """
    if not path.is_file():
        raise InputError(f"{path}: must be an audio file, but there is none")
    try:
        with soundfile.SoundFile(path) as file:
            is_truncated = _says_truncated(file.extra_info)
            pcm, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"{path}: must be readable audio: {error}") from error
    if is_truncated:
        raise InputError(f"{path}: must be whole, but it is shorter than its header says")
    if len(pcm) < MIN_DURATION_S * rate:
        raise InputError(
            f"{path}: must last at least {MIN_DURATION_S} s, got {len(pcm) / rate:.3f} s"
        )
    if not np.isfinite(pcm).all():
        raise InputError(f"{path}: must hold finite samples, it has NaN or infinity")
    waveform = downmix(pcm)
    if rate != SAMPLE_RATE_HZ:
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE_HZ, quality="HQ")
    sha256 = hashlib.sha256(np.ascontiguousarray(pcm, dtype="<f4").data).hexdigest()
    return Decoded(np.ascontiguousarray(waveform, np.float32), rate, pcm.shape[1], sha256)


def _says_truncated(notes: str) -> bool:
    """Whether libsndfile's notes on a file name a data chunk longer than the file.

    A size near 2^31 or 2^32 is a recorder's that wrote into a pipe and did not know it.
    """
    claimed = re.search(r"^data : (\d+) \(should be \d+\)", notes, re.MULTILINE)
    return claimed is not None and int(claimed[1]) < 0x7FFF_F000


def downmix(pcm: np.ndarray) -> np.ndarray:
    """(T, C) to (T,): the centre of 5.1, the mean of anything else."""
    if pcm.shape[1] == 6:
        return pcm[:, _CENTRE_OF_5_1]
    return pcm.mean(axis=1)


def crop(waveform: np.ndarray, max_duration_s: float) -> np.ndarray:
    """The first `max_duration_s` seconds of a 16 kHz waveform (T,)."""
    return waveform[: int(max_duration_s * SAMPLE_RATE_HZ)]
