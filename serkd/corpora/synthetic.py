"""A small invented emotional-speech corpus: source-filter babble with acted prosody.

It lets the whole product run, and be tested, without a licensed corpus. It is not speech and
carries no words. Emotions move prosody *relative to* a speaker's own habits (pitch, tempo,
timbre, loudness all differ between speakers), so long-term averages are a poor guide and a
model has to look at how the sound moves.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import istft, stft

from serkd.corpora.build import Listing, SourceUtterance

EMOTIONS = ("angry", "happy", "neutral", "sad")
SAMPLE_RATE = 16_000

Array = NDArray[np.float64]

_HOP = 80  # samples between control points: 5 ms
_FFT = 512  # analysis window of the vocal-tract filter: 32 ms
_FORMANTS = {  # Hz, roughly an adult male's
    "a": (730.0, 1090.0, 2440.0, 3400.0),
    "e": (530.0, 1840.0, 2480.0, 3500.0),
    "i": (290.0, 2250.0, 2950.0, 3600.0),
    "o": (570.0, 880.0, 2410.0, 3350.0),
    "u": (310.0, 900.0, 2240.0, 3300.0),
    "schwa": (500.0, 1450.0, 2450.0, 3450.0),
    "ae": (660.0, 1700.0, 2400.0, 3500.0),
}
_VOWELS = np.array(list(_FORMANTS.values()))  # (vowels, 4)
_BANDWIDTHS = np.array([80.0, 100.0, 140.0, 200.0])  # Hz
_SILENCE = 0.02  # amplitude between syllables, relative to a syllable's peak


@dataclass(frozen=True)
class _Prosody:
    """How one utterance is spoken; the numbers of an emotion are offsets from a habit."""

    pitch: float  # semitones above 100 Hz
    accent: float  # semitones, size of the pitch accents
    glide: float  # semitones, rise (+) or fall (-) within a syllable
    slope: float  # semitones, rise or fall over the utterance
    tempo: float  # log2 of syllables per second
    tilt: float  # dB per octave added to the source
    attack: float  # share of a syllable spent rising to its peak
    pause: float  # chance of a silence after a syllable
    swing: float  # dB, strength of the alternation between strong and weak syllables
    breath: float  # dB, aspiration noise relative to voicing

    def vector(self) -> Array:
        """The fields in order, shape (10,)."""
        return np.array(astuple(self))


_HABIT = _Prosody(2.0, 2.0, 0.0, -2.0, 2.1, 0.0, 0.42, 0.14, 3.0, -26.0)
_HABIT_SPREAD = _Prosody(2.5, 0.5, 0.3, 0.7, 0.10, 2.2, 0.03, 0.03, 0.7, 3.5)
_TAKE_SPREAD = _Prosody(1.2, 0.7, 0.7, 1.2, 0.09, 1.6, 0.05, 0.04, 0.9, 3.0)
_SHIFT = {
    "angry": _Prosody(2.0, 1.2, -2.2, -1.5, 0.32, 1.0, -0.28, -0.02, 2.0, -1.0),
    "happy": _Prosody(2.0, 1.8, 2.6, 2.0, 0.26, 0.5, 0.28, -0.02, 4.0, 0.5),
    "neutral": _Prosody(0.0, -0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.5, 0.0),
    "sad": _Prosody(-1.0, -1.2, -0.6, -1.0, -0.50, -1.0, 0.05, 0.20, -1.0, 2.0),
}


@dataclass(frozen=True)
class _Voice:
    """One invented voice."""

    speaker_id: str
    gender: str
    tract: float  # factor on every formant frequency
    loudness: float  # dB, habitual level
    room: float  # dB, background noise relative to the voice
    habit: Array  # a _Prosody vector


def _make_voice(seed: int, index: int) -> _Voice:
    # An emotion number no utterance has, so that the voice's stream is nobody else's: entropy is
    # padded with zeros, and [seed, index] alone would equal [seed, index, 0, 0].
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, len(EMOTIONS)]))
    female = index % 2 == 0
    habit = _HABIT.vector() + _HABIT_SPREAD.vector() * rng.standard_normal(10)
    habit[0] += 10.0 if female else 0.0
    return _Voice(
        speaker_id=f"{'f' if female else 'm'}{index:02d}",
        gender="female" if female else "male",
        tract=(1.16 if female else 1.0) * float(np.exp(0.06 * rng.standard_normal())),
        loudness=float(rng.normal(0.0, 3.0)),
        room=float(rng.uniform(-34.0, -22.0)),
        habit=habit,
    )


def _make_prosody(voice: _Voice, emotion: str, rng: np.random.Generator) -> _Prosody:
    """One take: habit, plus the emotion at a random intensity, plus chance."""
    shift = _SHIFT[emotion].vector() * rng.uniform(0.7, 1.3)
    take = voice.habit + shift + _TAKE_SPREAD.vector() * rng.standard_normal(10)
    prosody = _Prosody(*take.tolist())
    return replace(prosody, attack=min(max(prosody.attack, 0.06), 0.85))  # a rise and a fall


def _syllables(prosody: _Prosody, num_points: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Control points where syllables start and end, shape (syllables, 2)."""
    mean = 200.0 / 2.0**prosody.tempo
    spans, start = [], int(rng.integers(4, 14))
    while start < num_points - 0.5 * mean:
        end = start + int(mean * rng.uniform(0.8, 1.2))
        spans.append((start, min(end, num_points)))
        start = end
        if rng.random() < prosody.pause:
            start += int(mean * rng.uniform(0.5, 1.1))
    return np.array(spans)


def _controls(
    prosody: _Prosody, tract: float, num_points: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Pitch in semitones and amplitude, shape (points,), and formants in Hz, (points, 4)."""
    pitch = prosody.pitch + prosody.slope * (np.linspace(0.0, 1.0, num_points) - 0.5)
    level = np.full(num_points, _SILENCE)
    formants = np.zeros((num_points, 4))
    beat, previous = int(rng.integers(2)), 0
    for count, (start, end) in enumerate(_syllables(prosody, num_points, rng)):
        strong = 0.5 if (count + beat) % 2 else -0.5
        place = (np.arange(end - start) + 0.5) / (end - start)
        accent = strong * prosody.accent + rng.normal(0.0, 0.4)
        pitch[start:end] += accent + prosody.glide * (place - 0.5)
        rise = np.minimum(place / prosody.attack, (1.0 - place) / (1.0 - prosody.attack))
        gain = 10.0 ** ((strong * prosody.swing + rng.normal(0.0, 1.0)) / 20.0)
        level[start:end] += gain * np.sin(0.5 * np.pi * rise)
        vowel = _VOWELS[rng.integers(len(_VOWELS))] * tract
        formants[previous:] = vowel * rng.normal(1.0, 0.03, 4)
        previous = end
    return (
        gaussian_filter1d(pitch, 3.0, mode="nearest"),
        gaussian_filter1d(level, 1.0, mode="nearest"),
        gaussian_filter1d(formants, 5.0, axis=0, mode="nearest"),
    )


def _glottis(pitch: Array, breath: float, rng: np.random.Generator) -> Array:
    """Derivative of Rosenberg's glottal flow, and aspiration: (points,) to (samples,)."""
    wobble = gaussian_filter1d(rng.standard_normal(pitch.size), 1.0) * 0.25  # jitter, semitones
    shimmer = 1.0 + 0.1 * gaussian_filter1d(rng.standard_normal(pitch.size), 1.0)
    samples = np.arange(pitch.size * _HOP)
    points = np.arange(pitch.size) * _HOP
    hertz = 100.0 * 2.0 ** (np.interp(samples, points, pitch + wobble) / 12.0)
    cycle = np.cumsum(hertz) / SAMPLE_RATE % 1.0
    opening, closing = 0.40, 0.16  # shares of a cycle; the rest of it the glottis is shut
    flow = np.where(cycle < opening, np.sin(np.pi * cycle / opening) / opening, 0.0)
    shutting = (cycle >= opening) & (cycle < opening + closing)
    fall = np.sin(0.5 * np.pi * (cycle - opening) / closing) / closing
    flow = (flow - np.where(shutting, fall, 0.0)) * np.interp(samples, points, shimmer)
    noise = rng.standard_normal(flow.size) * flow.std() * 10.0 ** (breath / 20.0)
    return flow + noise


def _vocal_tract(source: Array, formants: Array, tilt: float) -> Array:
    """Filter source (samples,) by formants (points, 4), frame by frame."""
    freqs, _, frames = stft(source, nperseg=_FFT, noverlap=_FFT - _HOP * 2)
    f = np.maximum(freqs * SAMPLE_RATE, 60.0)[:, None]
    centres = formants[np.minimum(np.arange(frames.shape[1]) * 2, len(formants) - 1)]
    response = (10.0 ** (tilt * np.log2(f / 500.0) / 20.0)).astype(np.complex128)
    for centre, width in zip(centres.T, _BANDWIDTHS, strict=True):
        response = response * centre**2 / (centre**2 - f**2 + 1j * width * f)
    _, voice = istft(frames * response, nperseg=_FFT, noverlap=_FFT - _HOP * 2)
    return voice[: source.size]


def _speak(voice: _Voice, emotion: str, rng: np.random.Generator) -> Array:
    """One utterance at 16 kHz, shape (samples,), in -1..1."""
    prosody = _make_prosody(voice, emotion, rng)
    num_points = int(rng.uniform(1.1, 2.1) * SAMPLE_RATE / _HOP)
    pitch, level, formants = _controls(prosody, voice.tract, num_points, rng)
    source = _glottis(pitch, prosody.breath, rng)
    wave = _vocal_tract(source, formants, prosody.tilt)
    wave *= np.interp(np.arange(wave.size), np.arange(num_points) * _HOP, level)
    wave /= wave.std()
    noise = gaussian_filter1d(rng.standard_normal(wave.size), 0.6)
    noise *= 10.0 ** ((voice.room + rng.normal(0.0, 3.0)) / 20.0) / noise.std()
    gain = 0.05 * 10.0 ** ((voice.loudness + rng.normal(0.0, 2.0)) / 20.0)
    return np.clip((wave + noise) * gain, -0.99, 0.99)


def _write_flac(path: Path, wave: Array) -> None:
    # A rename is all or nothing: a killed process leaves no half-written recording behind.
    partial = path.with_suffix(".partial")
    soundfile.write(partial, wave, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial.replace(path)


def write_corpus(
    folder: Path,
    *,
    num_speakers: int = 24,
    utterances_per_emotion: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """Write the corpus as 16-bit FLAC under folder/audio and describe it.

    The same arguments give the same samples whatever was there before; progress, if given,
    is called with (utterances written, utterances in all).
    """
    audio = folder / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    todo = list(product(range(num_speakers), EMOTIONS, range(utterances_per_emotion)))
    written = []
    for index, emotion, take in todo:
        voice = _make_voice(seed, index)
        entropy = np.random.SeedSequence([seed, index, EMOTIONS.index(emotion), take])
        utt_id = f"{voice.speaker_id}-{emotion}-{take:02d}"
        path = audio / f"{utt_id}.flac"
        _write_flac(path, _speak(voice, emotion, np.random.default_rng(entropy)))
        session = f"s{index // 2}"  # a woman and a man
        written.append(
            SourceUtterance(
                utt_id, path, "synthetic", voice.speaker_id, voice.gender, session, emotion
            )
        )
        if progress is not None:
            progress(len(written), len(todo))
    return Listing(written)
