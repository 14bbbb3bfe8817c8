"""Flat tops: clipping has them, coarse quantisation and silence have not."""

from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from serkd.corpora.examine import compute_flat_share
from serkd.corpora.manifest import Manifest


def _speech(manifest: Manifest, utt_id: str) -> np.ndarray:
    samples = soundfile.read(manifest.by_id[utt_id].path, dtype="float32")[0]
    return samples / np.abs(samples).max()


def _mu_law(samples: np.ndarray) -> np.ndarray:
    steps = np.round(np.sign(samples) * np.log1p(255 * np.abs(samples)) / np.log(256) * 127)
    return np.sign(steps) * np.expm1(np.abs(steps) / 127 * np.log(256)) / 255


@pytest.mark.parametrize(
    "harmless",
    [
        lambda x: x,
        lambda x: 0.9 * x,
        lambda x: np.round(x * 127) / 127,
        lambda x: np.round(x * 31) / 31,
        lambda x: _mu_law(x),
        lambda x: np.clip(x, -0.3, 0.3) * 0.01,  # too quiet to tell
        lambda x: np.maximum(x, 0.0),  # long runs at its minimum, which is silence
    ],
    ids=["as it is", "scaled", "8 bits", "6 bits", "mu-law", "quiet", "rectified"],
)
def test_nothing_but_clipping_has_flat_tops(
    manifest: Manifest, harmless: Callable[[np.ndarray], np.ndarray]
) -> None:
    for utt_id in sorted(manifest.by_id)[::6]:
        assert compute_flat_share(harmless(_speech(manifest, utt_id)).astype(np.float32)) == 0.0


# in 8 bits at a low level there are too few values to tell
@pytest.mark.parametrize(("gain", "levels"), [(1.0, 2**15), (0.2, 2**15), (1.0, 2**7)])
def test_clipping_is_seen_at_any_level_and_in_8_bits(
    manifest: Manifest, gain: float, levels: int
) -> None:
    for utt_id in sorted(manifest.by_id)[::6]:
        clipped = np.round(gain * np.clip(_speech(manifest, utt_id), -0.4, 0.4) * levels) / levels
        on_rail = np.abs(clipped) == np.abs(clipped).max()
        share = compute_flat_share(clipped.astype(np.float32))
        assert 0.0 < share <= on_rail.mean()
