"""Audio for benchmarks: a corpus's own, or synthetic speech of the durations of another."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from serkd.corpora.audio import SAMPLE_RATE_HZ
from serkd.corpora.build import Listing, build_manifest
from serkd.corpora.manifest import Manifest
from serkd.corpora.synthetic import write_corpus
from serkd.errors import InputError

_SHORTEST_S, _LONGEST_S = 0.3, 30.0
_NUM_SPEAKERS = 4


def read_durations(source: str) -> np.ndarray:
    """Seconds of each utterance, (U,), of CSV:COLUMN; cut to what extraction takes.

    Raises:
        InputError: no such file or column, or no positive numbers in it.
    """
    name, _, column = source.rpartition(":")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"--durations must be CSV:COLUMN with a file that exists, got {source!r}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        seconds = np.array([float(row[column]) for row in rows])
    except (KeyError, ValueError, TypeError) as error:
        columns = ", ".join(rows[0]) if rows else "nothing"
        raise InputError(
            f"--durations must name a column of seconds, {path} has {columns}, got {column!r}"
        ) from error
    if not len(seconds) or not (seconds > 0).all():
        raise InputError(f"--durations must be positive, those of {source!r} are not")
    return np.clip(seconds, _SHORTEST_S, _LONGEST_S)


def draw_durations() -> np.ndarray:
    """Invented ones of 4,096 utterances, 3.5 s in the middle."""
    drawn = np.random.default_rng(0).lognormal(np.log(3.5), 0.5, 4096)
    return np.clip(drawn, _SHORTEST_S, _LONGEST_S)


def spread(values: np.ndarray, count: int) -> np.ndarray:
    """`count` of the values (U,), evenly spread over their order."""
    places = (np.arange(count) + 0.5) / count * len(values)
    return np.sort(values)[places.astype(int)]


def write_speech(folder: Path, durations: np.ndarray) -> Manifest:
    """Synthetic speech of `durations` (U,); longer utterances say the same again."""
    base = write_corpus(folder / "base", num_speakers=_NUM_SPEAKERS, utterances_per_emotion=2)
    sources = []
    for number, seconds in enumerate(durations):
        source = base.sources[number * 2 % len(base.sources)]  # all speakers and emotions in turn
        waveform, _ = soundfile.read(source.path, dtype="float32")
        path = folder / f"{number:05d}.flac"
        soundfile.write(path, np.resize(waveform, int(seconds * SAMPLE_RATE_HZ)), SAMPLE_RATE_HZ)
        sources.append(replace(source, utt_id=f"{number:05d}", path=path))
    return build_manifest(Listing(sources))


def pick_utterances(manifest: Manifest, count: int) -> tuple[str, ...]:
    """`count` of a corpus, or all, evenly spread over its order."""
    every = tuple(manifest.by_id)
    count = min(count, len(every))
    return tuple(every[i * len(every) // count] for i in range(count))
