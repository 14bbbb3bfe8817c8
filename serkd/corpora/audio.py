"""Audio files to mono 16 kHz waveforms: decoding, downmix and resampling, in one place."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from serkd.errors import InputError

SAMPLE_RATE_HZ = 16_000
MIN_DURATION_S = 0.1  # five frames; convolutional front ends need 25 ms, statistics need more
_BLOCK_FRAMES = 1 << 18
_LOUDNESS_WINDOW, _LOUDNESS_STEP = 400, 160  # samples: 25 ms, every 10 ms
_KEPT_SILENCE = 1_600  # samples: 0.1 s, so that no onset is lost and nothing gets too short


class TooShortError(InputError):
    """A readable file that is too short to compute anything from."""


@dataclass(frozen=True)
class Measured:
    """What is known of a file without keeping its samples.

    `num_samples` is the length at 16 kHz. `sha256` is over the samples of all channels as they
    are decoded, so it depends neither on the container nor on the resampler.
    """

    num_samples: int
    sample_rate: int
    num_channels: int
    sha256: str

    @property
    def duration_s(self) -> float:
        return self.num_samples / SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Decoded(Measured):
    """A file's mono float32 `waveform` at 16 kHz, (num_samples,).

    Full scale is 1; what a lossy codec or a float file has beyond it is kept.
    """

    waveform: np.ndarray


def read_audio(path: Path) -> Decoded:
    """Decode one file.

    Raises:
        InputError: the file is missing, unreadable, not finite, or shorter than 0.1 s.
    """
    mono: list[np.ndarray] = []
    measured = _measure(path, mono)
    waveform = np.concatenate(mono)
    if measured.sample_rate != SAMPLE_RATE_HZ:
        waveform = soxr.resample(waveform, measured.sample_rate, SAMPLE_RATE_HZ, quality="HQ")
    return Decoded(**vars(measured), waveform=np.ascontiguousarray(waveform, np.float32))


def measure_audio(path: Path) -> Measured:
    """What `read_audio` would find, in the memory of one block, however long the file is.

    Raises:
        InputError: as `read_audio`.
    """
    return _measure(path, None)


def _measure(path: Path, mono: list[np.ndarray] | None) -> Measured:
    """Go through a file once; its downmixed blocks are appended to `mono`, unless it is None."""
    digest, num_frames, is_finite = hashlib.sha256(), 0, True
    with open_audio(path) as file:
        centre = centre_channel(file)
        for pcm in read_blocks(file):
            digest.update(np.ascontiguousarray(pcm, dtype="<f4").data)
            num_frames += len(pcm)
            is_finite = is_finite and bool(np.isfinite(pcm).all())
            if mono is not None:
                mono.append(downmix(pcm, centre))
        rate, num_channels = file.samplerate, file.channels
    if num_frames < MIN_DURATION_S * rate:
        raise TooShortError(
            f"{path}: must last at least {MIN_DURATION_S} s, got {num_frames / rate:.3f} s"
        )
    if not is_finite:
        raise InputError(f"{path}: must hold finite samples, it has NaN or infinity")
    # soxr rounds to the nearest length, as a test checks
    num_samples = (num_frames * SAMPLE_RATE_HZ + rate // 2) // rate
    return Measured(num_samples, rate, num_channels, digest.hexdigest())


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none, not an error."""
    try:
        return path.is_file()
    except OSError:  # too long
        return False


@contextmanager
def open_audio(path: Path) -> Iterator[soundfile.SoundFile]:
    """A file to read. `InputError` if it is not audio, or shorter than its header says."""
    if not is_file(path):
        raise InputError(f"{path}: must be an audio file, but there is none")
    try:
        with soundfile.SoundFile(path) as file:
            if _says_truncated(file.extra_info):
                raise InputError(f"{path}: must be whole, but it is shorter than its header says")
            yield file
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"{path}: must be readable audio: {error}") from error


def read_blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Its samples as float32, (T, C) at a time."""
    return iter(file.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True))


def downmix(pcm: np.ndarray, centre: int | None) -> np.ndarray:
    """Samples (T, C) to mono (T,): the centre channel, or the mean where there is none."""
    # a copy, as a view would keep all channels in memory
    return pcm.mean(axis=1) if centre is None else pcm[:, centre].copy()


def _says_truncated(notes: str) -> bool:
    """Whether libsndfile's notes on a file name a data chunk longer than the file.

    A size near 2^31 or 2^32 is a recorder's that wrote into a pipe and did not know it.
    """
    claimed = re.search(r"^data : (\d+) \(should be \d+\)", notes, re.MULTILINE)
    return claimed is not None and int(claimed[1]) < 0x7FFF_F000


def centre_channel(file: soundfile.SoundFile) -> int | None:
    """The channel of 5.1 that speech is mixed to; None = not 5.1, the mean is taken.

    Around the centre are music and laughter tracks. WAV and FLAC order FL FR C LFE BL BR, Ogg
    (Vorbis and Opus) FL C FR BL BR LFE.
    """
    if file.channels != 6:
        return None
    return 1 if file.format == "OGG" else 2


@dataclass(frozen=True)
class Cut:
    """Which part of a recording is heard.

    Without what is before the first and after the last window of 25 ms that is at most
    `trim_silence_db` below the loudest one, but for 0.1 s on both sides (None = with it), and of
    that the first `max_duration_s` seconds. Acted corpora have a second of silence at both ends.
    """

    max_duration_s: float = 30.0
    trim_silence_db: float | None = None

    def apply(self, waveform: np.ndarray) -> np.ndarray:
        """The part (T',) of a 16 kHz waveform (T,), a view."""
        if self.trim_silence_db is not None:
            waveform = _trim_silence(waveform, self.trim_silence_db)
        return crop(waveform, self.max_duration_s)


def _trim_silence(waveform: np.ndarray, threshold_db: float) -> np.ndarray:
    if len(waveform) < _LOUDNESS_WINDOW:
        return waveform
    windows = np.lib.stride_tricks.sliding_window_view(waveform, _LOUDNESS_WINDOW)
    power = np.square(windows[::_LOUDNESS_STEP], dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-threshold_db / 10))
    start = max(0, loud[0] * _LOUDNESS_STEP - _KEPT_SILENCE)
    return waveform[start : loud[-1] * _LOUDNESS_STEP + _LOUDNESS_WINDOW + _KEPT_SILENCE]


def crop(waveform: np.ndarray, max_duration_s: float) -> np.ndarray:
    """The first `max_duration_s` seconds of a 16 kHz waveform (T,)."""
    return waveform[: int(max_duration_s * SAMPLE_RATE_HZ)]


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """A 16 kHz waveform (T,) played `factor` times as fast, (about T / factor,) float32.

    Tempo and pitch change together, as with a tape (Ko et al., Interspeech 2015, section 2.3).
    """
    if factor == 1.0:
        return waveform
    return soxr.resample(waveform, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="HQ")
