"""Small MP4 files with a picture and a sound track."""

from pathlib import Path

import numpy as np

RATE_HZ = 48_000
TONES_HZ = (300, 500, 700, 90, 1_100, 1_300)  # of FL FR FC LFE BL BR


def tones(num_channels: int, seconds: float = 0.6, level: float = 0.3) -> np.ndarray:
    """Another sine in each channel, (channels, T)."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.stack([level * np.sin(2 * np.pi * f * time) for f in TONES_HZ[:num_channels]])


def write_mp4(
    path: Path, pcm: np.ndarray | None, layout: str = "5.1", *, has_header_first: bool = False
) -> None:
    """Sound (channels, T) as AAC with that `layout`; None writes a video without sound."""
    import av

    options = {"movflags": "faststart"} if has_header_first else {}
    with av.open(str(path), "w", options=options) as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 16
        picture.pix_fmt = "yuv420p"
        sound = None if pcm is None else container.add_stream("aac", rate=RATE_HZ, layout=layout)
        black = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for frame in (*[black] * 15, None):
            container.mux(picture.encode(frame))
        if sound is not None:
            samples = np.ascontiguousarray(pcm, np.float32)
            heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            heard.sample_rate = RATE_HZ
            for part in (heard, None):
                container.mux(sound.encode(part))
