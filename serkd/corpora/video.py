"""The sound of video files as mono 16 kHz FLAC, through PyAV or an `ffmpeg` program."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from serkd.corpora.audio import (
    SAMPLE_RATE_HZ,
    centre_channel,
    downmix,
    open_audio,
    read_blocks,
)
from serkd.errors import InputError

_NUM_CHANNELS_51 = 6
Mono = tuple[int, np.ndarray]  # sample rate in Hz, samples (T,)


def check_decoder() -> None:
    """Refuse before any work if nothing here can decode video."""
    if not _has_pyav() and shutil.which("ffmpeg") is None:
        raise InputError(
            "the sound of video files must be decoded by PyAV or ffmpeg, and neither is here: "
            "pip install 'serkd[video]', or install ffmpeg, or convert the clips to FLAC or WAV"
        )


def extract_all(
    jobs: Sequence[tuple[Path, Path]], progress: Callable[[int, int], None]
) -> list[InputError | None]:
    """Extract `(video, flac)` pairs in parallel; what is wrong with each, in their order.

    A FLAC file that is newer than its video is kept, so an interrupted run goes on.
    """

    def extract(job: tuple[Path, Path]) -> InputError | None:
        try:
            if not _is_newer(job[1], job[0]):
                extract_audio(*job)
        except InputError as error:
            return error
        return None

    problems: list[InputError | None] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for problem in pool.map(extract, jobs):
                problems.append(problem)
                progress(len(problems), len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or a Ctrl-C would wait for all that is queued
            raise
    return problems


def _is_newer(path: Path, than: Path) -> bool:
    return path.is_file() and path.stat().st_mtime_ns >= than.stat().st_mtime_ns


def extract_audio(video: Path, flac: Path) -> None:
    """Write the first sound track of `video` to `flac`: mono, 16 kHz, 16 bits.

    Of 5.1 the centre channel is kept, of anything else the mean, as `read_audio` does. What a
    lossy codec has beyond full scale is clipped.

    Raises:
        InputError: no such file, no decoder, not a video, cut short, or without sound.
    """
    if not video.is_file():
        raise InputError(f"{video}: must be a video file, but there is none")
    check_decoder()
    if _is_cut_short(video):
        raise InputError(f"{video}: must be whole, but it is shorter than its header says")
    flac.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(flac, "") as written, _temporary(flac, ".wav") as decoded:
        blocks = _decode_pyav(video) if _has_pyav() else _decode_ffmpeg(video, decoded)
        with soundfile.SoundFile(written, "w", SAMPLE_RATE_HZ, 1, "PCM_16", format="FLAC") as file:
            num_samples = 0
            for block in _resample(blocks):
                file.write(np.clip(block, -1.0, 1.0))
                num_samples += len(block)
        if not num_samples:
            raise InputError(f"{video}: must have sound, its sound track is empty")
        written.replace(flac)


@contextmanager
def _temporary(path: Path, suffix: str) -> Iterator[Path]:
    """A name beside `path` for a file that is gone afterwards, whatever happens."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _resample(blocks: Iterator[Mono]) -> Iterator[np.ndarray]:
    """To 16 kHz in the memory of a block, with the samples of resampling all at once."""
    stream = None
    for rate, mono in blocks:
        if stream is None:
            stream = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
        yield stream.resample_chunk(mono)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _has_pyav() -> bool:
    return importlib.util.find_spec("av") is not None


def _decode_pyav(video: Path) -> Iterator[Mono]:
    import av

    try:
        with av.open(str(video)) as container:
            if not container.streams.audio:
                raise InputError(f"{video}: must have sound, it has no sound track")
            planar = av.AudioResampler(format="fltp")  # only the sample format is changed
            for frame in container.decode(container.streams.audio[0]):
                for part in planar.resample(frame):
                    pcm = part.to_ndarray().T
                    centre = _centre(pcm, [channel.name for channel in part.layout.channels])
                    yield part.sample_rate, downmix(pcm, centre)
    except InputError:
        raise
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{video}: must be a readable video: {reason}") from error


def _centre(pcm: np.ndarray, names: list[str]) -> int | None:
    """As `centre_channel`, of (T, C); channels that AAC leaves unnamed are in WAV's order."""
    if pcm.shape[1] != _NUM_CHANNELS_51:
        return None
    return names.index("FC") if "FC" in names else 2


def _decode_ffmpeg(video: Path, wav: Path) -> Iterator[Mono]:
    """Through a WAV file with all channels, whose order and centre `audio` knows."""
    options = ("-nostdin", "-v", "error", "-xerror", "-y", "-i", f"file:{video}")
    sound = ("-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", f"file:{wav}")
    done = subprocess.run(["ffmpeg", *options, *sound], capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"ffmpeg gave {done.returncode}"
        raise InputError(f"{video}: must be a readable video: {said.splitlines()[0]}")
    with open_audio(wav) as file:
        centre = centre_channel(file)
        for pcm in read_blocks(file):
            yield file.samplerate, downmix(pcm, centre)


def _is_cut_short(video: Path) -> bool:
    """Whether a box of an MP4 file ends beyond the file; a decoder would just stop there."""
    size = video.stat().st_size
    with video.open("rb") as file:
        start = 0
        while start + 8 <= size:
            file.seek(start)
            header = file.read(16)
            if start == 0 and header[4:8] != b"ftyp":
                return False  # not MP4: the decoder says what it is
            length = int.from_bytes(header[:4], "big")
            if length == 1:  # a 64-bit length follows
                length = int.from_bytes(header[8:], "big")
            if length < 8:  # 0: to the end of the file
                return False
            start += length
    return start > size
