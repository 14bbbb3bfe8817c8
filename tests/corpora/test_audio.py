"""Decoding: level, channels, sample rate, identity and refusals, for every container we claim."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkd.corpora.audio import MIN_DURATION_S, SAMPLE_RATE_HZ, Cut, crop, read_audio
from serkd.errors import InputError


def _sine(rate: int, seconds: float, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2.0 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def _assert_is_sine(waveform: np.ndarray, tolerance: float) -> None:
    """Equal to the ideal 440 Hz sine at 16 kHz, apart from the resampler's edges."""
    ideal = _sine(SAMPLE_RATE_HZ, len(waveform) / SAMPLE_RATE_HZ)
    inner = slice(800, -800)
    assert np.abs(waveform - ideal)[inner].max() < tolerance


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_duration_and_signal(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, _sine(rate, 1.3), rate, subtype="PCM_16")
    decoded = read_audio(path)
    assert abs(decoded.num_samples - 1.3 * SAMPLE_RATE_HZ) <= 2
    assert decoded.sample_rate == rate
    assert decoded.waveform.dtype == np.float32
    _assert_is_sine(decoded.waveform, 2e-3)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_U8", 1e-2),
        ("a.wav", "PCM_16", 1e-4),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "PCM_32", 1e-6),
        ("a.wav", "FLOAT", 1e-6),
        ("a.wav", "DOUBLE", 1e-6),
        ("a.wav", "ULAW", 2e-2),
        ("a.flac", "PCM_16", 1e-4),
        ("a.flac", "PCM_24", 1e-6),
        ("a.ogg", "VORBIS", 3e-2),
    ],
)
def test_level_is_the_same_in_every_format(
    tmp_path: Path, name: str, subtype: str, tolerance: float
) -> None:
    path = tmp_path / name
    soundfile.write(path, _sine(SAMPLE_RATE_HZ, 1.0), SAMPLE_RATE_HZ, subtype=subtype)
    _assert_is_sine(read_audio(path).waveform, tolerance)


def test_loud_lossy_audio_does_not_wrap_around(tmp_path: Path) -> None:
    # a codec overshoots full scale, where integers turn to their other end
    path = tmp_path / "loud.ogg"
    soundfile.write(path, np.sign(_sine(SAMPLE_RATE_HZ, 1.0)), SAMPLE_RATE_HZ)
    decoded = soundfile.read(path)[0]
    assert np.abs(decoded).max() > 1.1
    gap = np.clip(read_audio(path).waveform, -1.0, 1.0) - np.clip(decoded, -1.0, 1.0)
    assert np.abs(gap).max() < 1e-4


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_streamed_wav_that_does_not_know_its_length_is_whole(tmp_path: Path, size: int) -> None:
    # what converters write into a pipe: FFmpeg the largest number, SoX one near 2^31
    path = tmp_path / "piped.wav"
    soundfile.write(path, _sine(SAMPLE_RATE_HZ, 1.0), SAMPLE_RATE_HZ, subtype="PCM_16")
    whole = read_audio(path)
    content = bytearray(path.read_bytes())
    for position in (4, content.index(b"data") + 4):
        content[position : position + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    piped = read_audio(path)
    assert (piped.num_samples, piped.sha256) == (whole.num_samples, whole.sha256)


def test_stereo_is_averaged_before_resampling(tmp_path: Path) -> None:
    rate = 48_000
    left, right = _sine(rate, 1.0), np.zeros(rate)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([2 * left, right], axis=1), rate, subtype="PCM_16")
    decoded = read_audio(path)
    assert (decoded.num_channels, decoded.num_samples) == (2, SAMPLE_RATE_HZ)
    _assert_is_sine(decoded.waveform, 2e-3)


def test_six_channels_keep_the_centre_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    channels = 0.3 * rng.standard_normal((SAMPLE_RATE_HZ, 6)).clip(-3, 3)
    channels[:, 2] = _sine(SAMPLE_RATE_HZ, 1.0)
    path = tmp_path / "surround.wav"
    soundfile.write(path, channels, SAMPLE_RATE_HZ, subtype="PCM_16")
    assert np.abs(read_audio(path).waveform - channels[:, 2]).max() < 1e-4


def test_sha256_depends_on_samples_and_not_on_the_container(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, (4_000, 2)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, SAMPLE_RATE_HZ, subtype="PCM_16")
    soundfile.write(tmp_path / "a.flac", pcm, SAMPLE_RATE_HZ, subtype="PCM_16")
    soundfile.write(tmp_path / "a.aiff", pcm, SAMPLE_RATE_HZ, subtype="PCM_16")
    # soundfile shifts 16-bit samples to the upper bits, so the values are the same
    soundfile.write(tmp_path / "wide.wav", pcm, SAMPLE_RATE_HZ, subtype="PCM_24")
    hashes = {read_audio(path).sha256 for path in tmp_path.iterdir()}
    assert len(hashes) == 1
    pcm[2_000, 1] ^= 1  # one bit of one channel
    soundfile.write(tmp_path / "b.wav", pcm, SAMPLE_RATE_HZ, subtype="PCM_16")
    assert read_audio(tmp_path / "b.wav").sha256 not in hashes


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_the_shortest_legal_clip_is_a_tenth_of_a_second(tmp_path: Path, rate: int) -> None:
    path, shortest = tmp_path / "short.wav", round(MIN_DURATION_S * rate)
    soundfile.write(path, np.full(shortest, 0.1), rate)
    assert read_audio(path).num_samples == round(MIN_DURATION_S * SAMPLE_RATE_HZ)
    soundfile.write(path, np.full(shortest - 1, 0.1), rate)
    with pytest.raises(InputError, match=r"short\.wav: must last at least 0\.1 s, got 0\.\d+ s"):
        read_audio(path)


def _write_empty(path: Path) -> None:
    path.write_bytes(b"")


def _write_no_frames(path: Path) -> None:
    soundfile.write(path, np.zeros(0), SAMPLE_RATE_HZ, format="WAV")


def _write_text(path: Path) -> None:
    path.write_text("this is a transcript, not a recording\n" * 100)


def _write_half(path: Path, container: str) -> None:
    soundfile.write(path, _sine(SAMPLE_RATE_HZ, 2.0), SAMPLE_RATE_HZ, format=container)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _write_not_finite(path: Path) -> None:
    waveform = _sine(SAMPLE_RATE_HZ, 1.0)
    waveform[5_000] = np.nan
    soundfile.write(path, waveform, SAMPLE_RATE_HZ, format="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    "write",
    [
        _write_empty,
        _write_no_frames,
        _write_text,
        _write_not_finite,
        lambda path: path.mkdir(),
        lambda path: None,
        pytest.param(lambda path: _write_half(path, "WAV"), id="half_wav"),
        pytest.param(lambda path: _write_half(path, "FLAC"), id="half_flac"),
        pytest.param(lambda path: _write_half(path, "OGG"), id="half_ogg"),
    ],
)
def test_unusable_audio_is_refused_by_name(tmp_path: Path, write: object) -> None:
    path = tmp_path / "broken.wav"
    write(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"broken\.wav: must "):
        read_audio(path)


def test_crop_keeps_the_first_seconds_and_never_pads() -> None:
    waveform = np.arange(20_000, dtype=np.float32)
    assert np.array_equal(crop(waveform, 1.0), waveform[:16_000])
    assert np.array_equal(crop(waveform, 30.0), waveform)


def _spoken(before_s: float, speech_s: float, after_s: float, noise: float = 1e-4) -> np.ndarray:
    """Faint noise, a loud tone, faint noise."""
    rng = np.random.default_rng(0)
    parts = [noise * rng.standard_normal(round(16_000 * s)) for s in (before_s, after_s)]
    tone = 0.5 * np.sin(2 * np.pi * 220 * np.arange(round(16_000 * speech_s)) / 16_000)
    return np.concatenate([parts[0], tone, parts[1]]).astype(np.float32)


@pytest.mark.parametrize(("before_s", "after_s"), [(1.0, 0.7), (0.05, 0.7), (1.0, 0.0), (0.0, 0.0)])
def test_silence_at_both_ends_is_cut_but_for_a_tenth_of_a_second(
    before_s: float, after_s: float
) -> None:
    waveform = _spoken(before_s, 0.8, after_s)
    found = Cut(trim_silence_db=40.0).apply(waveform)
    expected = min(before_s, 0.1) + 0.8 + min(after_s, 0.1)
    assert abs(len(found) / 16_000 - expected) <= 0.05  # a window on either side
    assert np.abs(found).max() == np.abs(waveform).max()
    speech = waveform[round(16_000 * before_s) : round(16_000 * (before_s + 0.8))]
    windows = np.lib.stride_tricks.sliding_window_view(found, len(speech))
    assert (windows == speech).all(axis=1).any()  # all of it, unchanged


def test_pauses_within_speech_stay() -> None:
    waveform = np.concatenate([_spoken(0.5, 0.3, 0.6), _spoken(0.0, 0.3, 0.5)])
    found = Cut(trim_silence_db=40.0).apply(waveform)
    assert abs(len(found) / 16_000 - (0.1 + 0.3 + 0.6 + 0.3 + 0.1)) <= 0.05


@pytest.mark.parametrize("waveform", [np.zeros(16_000, np.float32), _spoken(0.0, 1.0, 0.0)])
def test_what_is_all_silence_or_all_speech_stays_whole(waveform: np.ndarray) -> None:
    found = Cut(trim_silence_db=40.0).apply(waveform)
    assert len(found) > len(waveform) - 200


def test_the_longest_duration_counts_from_the_beginning_of_speech() -> None:
    waveform = _spoken(1.0, 2.0, 1.0)
    found = Cut(1.5, trim_silence_db=40.0).apply(waveform)
    assert len(found) == 24_000
    assert np.abs(found[-400:]).max() > 0.4
    np.testing.assert_array_equal(Cut(1.5).apply(waveform), waveform[:24_000])


@pytest.mark.parametrize("place", [0, 700, 1_599])
@pytest.mark.parametrize("threshold_db", [0.1, 100.0])
def test_no_clip_gets_shorter_than_the_shortest_that_is_read(
    place: int, threshold_db: float
) -> None:
    waveform = np.zeros(1_600, np.float32)
    waveform[place] = 1.0
    found = Cut(trim_silence_db=threshold_db).apply(waveform)
    assert len(found) >= MIN_DURATION_S * 16_000
