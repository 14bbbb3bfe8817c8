"""The sound of videos: which channel, at which level, by which decoder, and what is refused."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mp4 import RATE_HZ, TONES_HZ, tones, write_mp4

from serkd.corpora.audio import read_audio
from serkd.corpora.video import extract_all, extract_audio
from serkd.errors import InputError

av = pytest.importorskip("av")


def _strength(waveform: np.ndarray, hertz: float) -> float:
    """How much of a waveform at 16 kHz is this frequency: the amplitude of the sine."""
    inner = waveform[1_600:8_000]
    return float(2 * abs(np.exp(-2j * np.pi * hertz * np.arange(6_400) / 16_000) @ inner) / 6_400)


def _use_ffmpeg(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """No PyAV, and this Python script as the only `ffmpeg`."""
    folder.mkdir(exist_ok=True)
    program = folder / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport sys\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize("layout", ["5.1", "5.1(side)"])
def test_of_six_channels_the_centre_is_kept(tmp_path: Path, layout: str) -> None:
    write_mp4(tmp_path / "a.mp4", tones(6), layout)
    extract_audio(tmp_path / "a.mp4", tmp_path / "new" / "a.flac")
    info = soundfile.info(tmp_path / "new" / "a.flac")
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    waveform = read_audio(tmp_path / "new" / "a.flac").waveform
    for hertz in TONES_HZ:
        expected = 0.3 if hertz == TONES_HZ[2] else 0.0
        assert _strength(waveform, hertz) == pytest.approx(expected, abs=0.03)  # AAC's own error
    assert [*tmp_path.rglob(".*")] == []


@pytest.mark.parametrize(("layout", "count"), [("mono", 1), ("stereo", 2)])
def test_of_other_layouts_the_mean_is_kept(tmp_path: Path, layout: str, count: int) -> None:
    write_mp4(tmp_path / "a.mp4", tones(count), layout)
    extract_audio(tmp_path / "a.mp4", tmp_path / "a.flac")
    decoded = read_audio(tmp_path / "a.flac")
    assert decoded.duration_s == pytest.approx(0.6, abs=0.05)  # AAC fills its last block
    for hertz in TONES_HZ[:count]:
        assert _strength(decoded.waveform, hertz) == pytest.approx(0.3 / count, abs=0.02)


def test_it_is_what_read_audio_makes_of_the_same_channels(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", tones(6))
    with av.open(str(tmp_path / "a.mp4")) as container:
        pcm = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    soundfile.write(tmp_path / "a.wav", pcm.T, RATE_HZ, subtype="FLOAT")
    extract_audio(tmp_path / "a.mp4", tmp_path / "a.flac")
    whole, parts = read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "a.flac")
    np.testing.assert_allclose(parts.waveform, whole.waveform, atol=1 / 32_000)


def test_loud_sound_is_clipped_and_does_not_wrap_around(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", np.clip(tones(1, level=4.0), -1, 1), "mono")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert max(np.abs(frame.to_ndarray()).max() for frame in container.decode(audio=0)) > 1.05
    extract_audio(tmp_path / "a.mp4", tmp_path / "a.flac")
    waveform = read_audio(tmp_path / "a.flac").waveform
    assert waveform.max() > 0.99 and np.abs(np.diff(waveform)).max() < 1.0


def test_bad_videos_are_named_and_leave_nothing(tmp_path: Path) -> None:
    write_mp4(tmp_path / "whole.mp4", tones(2), "stereo")
    write_mp4(tmp_path / "header_first.mp4", tones(2), "stereo", has_header_first=True)
    write_mp4(tmp_path / "silent.mp4", None)
    for name, source, share in (("a", "whole", 0.5), ("b", "header_first", 0.6)):
        content = (tmp_path / f"{source}.mp4").read_bytes()
        (tmp_path / f"{name}.mp4").write_bytes(content[: int(share * len(content))])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("version https://git-lfs.github.com/spec/v1\n" * 9)
    (tmp_path / "folder.mp4").mkdir()
    names = ("whole", "a", "b", "silent", "empty", "text", "folder", "none")
    jobs = [(tmp_path / f"{name}.mp4", tmp_path / "out" / f"{name}.flac") for name in names]
    problems = extract_all(jobs, lambda done, total: None)
    assert problems[0] is None
    reasons = [str(p).removeprefix(f"{j[0]}: ") for p, j in zip(problems, jobs, strict=True)][1:]
    assert reasons[:3] == [
        "must be whole, but it is shorter than its header says",
        "must be whole, but it is shorter than its header says",
        "must have sound, it has no sound track",
    ]
    assert all(reason.startswith("must be a readable video: ") for reason in reasons[3:5])
    assert all(reason.startswith("must be a video file, but there") for reason in reasons[5:])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["whole.flac"]


def test_what_is_newer_than_its_video_is_kept(tmp_path: Path) -> None:
    video, flac = tmp_path / "a.mp4", tmp_path / "a.flac"
    write_mp4(video, tones(1), "mono")
    flac.write_bytes(b"kept")
    assert extract_all([(video, flac)], lambda done, total: None) == [None]
    assert flac.read_bytes() == b"kept"
    os.utime(flac, (0, 0))
    extract_all([(video, flac)], lambda done, total: None)
    assert soundfile.info(flac).frames > 9_600


def test_ffmpeg_stands_in_for_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video, wav = tmp_path / "a.mp4", tmp_path / "decoded.wav"
    video.write_bytes(b"any")
    soundfile.write(wav, tones(6).T, RATE_HZ, subtype="FLOAT")
    copy = f"import shutil; shutil.copy({str(wav)!r}, sys.argv[-1].removeprefix('file:'))"
    _use_ffmpeg(monkeypatch, tmp_path / "bin", copy)
    extract_audio(video, tmp_path / "out" / "a.flac")
    np.testing.assert_allclose(
        read_audio(tmp_path / "out" / "a.flac").waveform, read_audio(wav).waveform, atol=1 / 32_000
    )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.flac"]


def test_what_ffmpeg_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"any")
    _use_ffmpeg(monkeypatch, tmp_path / "bin", "sys.exit('moov atom not found\\nError opening')")
    with pytest.raises(InputError, match=r"a.mp4: must be a readable video: moov atom not found$"):
        extract_audio(tmp_path / "a.mp4", tmp_path / "out" / "a.flac")
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here")
def test_both_decoders_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "a.mp4", tones(6))
    extract_audio(tmp_path / "a.mp4", tmp_path / "pyav.flac")
    monkeypatch.setitem(sys.modules, "av", None)
    extract_audio(tmp_path / "a.mp4", tmp_path / "ffmpeg.flac")
    one, other = (read_audio(tmp_path / f"{name}.flac").waveform for name in ("pyav", "ffmpeg"))
    shared = min(len(one), len(other)) - 320  # a last block may be cut to what it holds
    assert abs(len(one) - len(other)) < 400
    np.testing.assert_allclose(one[:shared], other[:shared], atol=1e-3)


def test_without_a_decoder_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"pip install 'serkd\[video\]'"):
        extract_audio(tmp_path / "a.mp4", tmp_path / "a.flac")
