"""A student with all that it needs to hear: from a waveform to logits."""

import numpy as np
import torch
from torch import Tensor, nn

from serkd import config
from serkd.corpora.audio import SAMPLE_RATE_HZ
from serkd.features.backbone import Backbone, Prefix
from serkd.features.fast import speed_up
from serkd.features.logmel import compute_logmel
from serkd.models.cost import count_macs, time_forward
from serkd.models.student import build_student, count_parameters

COST_SECONDS = 3.0  # of the utterance that costs are measured on
_REPEATS = 15


class Listener(nn.Module):
    """A student of random weights, whose shape is what counts, in eval mode.

    One of hidden states has the `backbone` inside, up to the layer that it reads; that the
    extractor fine-tuned it changes no shape. One of log-mel needs none.
    """

    def __init__(
        self, settings: config.Student, backbone: Backbone | None, num_classes: int
    ) -> None:
        super().__init__()
        self.logmel, self.prefix = settings.logmel, None
        num_channels = settings.logmel.num_mels
        if settings.has_backbone:
            assert backbone is not None
            self.prefix = Prefix(backbone, settings.hidden.layer)
            num_channels = backbone.dim
        self.student = build_student(settings, num_classes, num_channels).eval()

    def forward(self, waveform: np.ndarray) -> Tensor:
        """Waveform (T,) at 16 kHz to logits (1, C)."""
        if self.prefix is not None:
            frames = self.prefix(waveform)[None]
        else:
            given = compute_logmel(waveform, self.logmel.num_mels, self.logmel.frame_rate_hz)
            frames = torch.from_numpy(given)[None]
        return self.student(frames, torch.ones(frames.shape[:2], dtype=torch.bool)).logits


def count_inside(settings: config.Student, backbone: Backbone | None) -> int:
    """Parameters of the backbone that a student needs at inference; 0 with log-mel."""
    if not settings.has_backbone:
        return 0
    assert backbone is not None
    return count_parameters(Prefix(backbone, settings.hidden.layer))


def measure(model: nn.Module, waveform: np.ndarray, repeats: int) -> dict[str, float]:
    """Parameters, MACs and seconds of a model that hears a waveform (T,), on one thread.

    Frozen encoders are timed as serkd computes with them: `speed_up` changes them, in place.
    """
    # first: an encoder that is sped up has other parameters, and products that are not counted
    costs = {
        "parameters": count_parameters(model),
        "macs": count_macs(lambda: model(waveform)),
    }
    for module in model.modules():
        if isinstance(module, Prefix):
            speed_up(module, "cpu")
    return {**costs, "seconds": time_forward(lambda: model(waveform), repeats)}


def measure_student(
    settings: config.Student,
    backbone: Backbone | None,
    num_classes: int,
    repeats: int = _REPEATS,
) -> dict[str, float]:
    """Parameters, and MACs and seconds for one utterance of 3 s, from waveform to logits.

    SupCon's projector counts too (`StudentOutput.projection`), though no logit needs it.
    `real_time_factor` is seconds of computing by seconds of speech, on one thread.
    """
    listener = Listener(settings, backbone, num_classes)
    noise = np.random.default_rng(0).standard_normal(round(COST_SECONDS * SAMPLE_RATE_HZ))
    waveform = 0.1 * noise.astype(np.float32)
    found = measure(listener, waveform, repeats)
    seconds = found.pop("seconds")
    return {**found, "latency_s": seconds, "real_time_factor": seconds / COST_SECONDS}
