"""A student with all that it needs to hear: from a waveform to logits."""

import numpy as np
import torch
from torch import Tensor, nn

from serkd import config
from serkd.features.backbone import Backbone, Prefix
from serkd.features.logmel import compute_logmel
from serkd.models.student import build_student, count_parameters


class Listener(nn.Module):
    """Random weights, unless `backbone` has others: what counts is the shape.

    A student of hidden states has its backbone inside, up to the layer that it reads; that the
    extractor fine-tuned it changes no shape.
    """

    def __init__(self, settings: config.Student, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.prefix = Prefix(backbone, settings.hidden.layer) if settings.has_backbone else None
        num_channels = backbone.dim if settings.has_backbone else settings.logmel.num_mels
        self.student = build_student(settings, num_classes, num_channels).eval()

    def forward(self, waveform: np.ndarray) -> Tensor:
        """Waveform (T,) at 16 kHz to logits (1, C)."""
        if self.prefix is not None:
            frames = self.prefix(waveform)[None]
        else:
            logmel = self.settings.logmel
            frames = torch.from_numpy(
                compute_logmel(waveform, logmel.num_mels, logmel.frame_rate_hz)
            )[None]
        return self.student(frames, torch.ones(frames.shape[:2], dtype=torch.bool)).logits


def count_inside(settings: config.Student, backbone: Backbone) -> int:
    """Parameters of the backbone that a student needs at inference; 0 with log-mel."""
    return count_parameters(Prefix(backbone, settings.hidden.layer)) if settings.has_backbone else 0
