"""How large and how fast a student is, known before it is trained."""

import functools

import numpy as np
import torch

from serkd import config
from serkd.config import Experiment
from serkd.corpora.audio import SAMPLE_RATE_HZ
from serkd.features.backbone import Backbone, find_backbone
from serkd.models.cost import time_forward
from serkd.models.listener import Listener, count_inside
from serkd.models.student import build_student, count_parameters

SECONDS = 5.0  # of audio that latency is measured on
_PASSES = 7


def count_student(experiment: Experiment, num_classes: int) -> int:
    """Parameters of a student, with those of the backbone that it hears through."""
    settings, backbone = experiment.student, _find_ears(experiment)
    num_channels = settings.logmel.num_mels if backbone is None else backbone.dim
    with torch.device("meta"):  # nothing is allocated
        own = count_parameters(build_student(settings, num_classes, num_channels))
    return own + count_inside(settings, backbone)


def measure_latency(experiment: Experiment, num_classes: int) -> float:
    """Milliseconds that one CPU thread takes from 5 s of waveform to logits; median of 7.

    Measured once for every shape in a process: what does not change the shape does not count.
    """
    shape = experiment.student.model_copy(
        update={name: config.Student.model_fields[name].default for name in ("fit", "augment")}
    )
    return _measure(shape, _find_ears(experiment), num_classes)


def _find_ears(experiment: Experiment) -> Backbone | None:
    has_backbone = experiment.student.has_backbone
    return find_backbone(experiment.backbone.name) if has_backbone else None


@functools.cache
def _measure(settings: config.Student, backbone: Backbone | None, num_classes: int) -> float:
    state = torch.get_rng_state()
    try:
        listener = Listener(settings, backbone, num_classes)
        waveform = np.zeros(round(SECONDS * SAMPLE_RATE_HZ), np.float32)
        return 1000 * time_forward(lambda: listener(waveform), _PASSES)
    finally:
        torch.set_rng_state(state)
