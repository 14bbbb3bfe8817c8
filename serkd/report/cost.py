"""What a student costs to use."""

from collections.abc import Mapping

import numpy as np

from serkd import config
from serkd.corpora.audio import SAMPLE_RATE_HZ
from serkd.features.backbone import Backbone
from serkd.models.cost import count_macs, time_forward
from serkd.models.listener import Listener
from serkd.models.student import count_parameters

SECONDS = 3.0  # of the utterance
_REPEATS = 15


def measure_student(
    settings: config.Student, backbone: Backbone, num_classes: int, repeats: int = _REPEATS
) -> dict[str, float]:
    """Parameters, and MACs and seconds for one utterance of 3 s, from waveform to logits.

    `real_time_factor` is seconds of computing by seconds of speech, on one thread.
    """
    listener = Listener(settings, backbone, num_classes)
    noise = np.random.default_rng(0).standard_normal(round(SECONDS * SAMPLE_RATE_HZ))
    waveform = 0.1 * noise.astype(np.float32)
    seconds = time_forward(lambda: listener(waveform), repeats)
    return {
        "parameters": count_parameters(listener),
        "macs": count_macs(lambda: listener(waveform)),
        "latency_s": seconds,
        "real_time_factor": seconds / SECONDS,
    }


def describe_cost(cost: Mapping[str, float]) -> str:
    """On one line."""
    return (
        f"{cost['parameters'] / 1e6:.2f} M parameters; {SECONDS:g} s of speech: "
        f"{cost['macs'] / 1e6:.0f} M MACs, {1e3 * cost['latency_s']:.1f} ms on one thread "
        f"(real-time factor {cost['real_time_factor']:.4f})"
    )
