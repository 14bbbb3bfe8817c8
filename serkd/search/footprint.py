"""How large and how fast a student is, known before it is trained."""

import functools

import torch

from serkd import config
from serkd.config import Experiment
from serkd.features.backbone import Backbone, find_backbone
from serkd.models.listener import count_inside, measure_student
from serkd.models.student import build_student, count_parameters


def count_student(experiment: Experiment, num_classes: int) -> int:
    """Parameters of a student, with those of the backbone that it hears through."""
    settings, backbone = experiment.student, _find_ears(experiment)
    num_channels = settings.logmel.num_mels if backbone is None else backbone.dim
    with torch.device("meta"):  # nothing is allocated
        own = count_parameters(build_student(settings, num_classes, num_channels))
    return own + count_inside(settings, backbone)


def measure_cost(experiment: Experiment, num_classes: int) -> dict[str, float]:
    """`macs`, and `latency_ms` on one CPU thread, of 3 s from waveform to logits.

    Measured once for every shape in a process: what does not change the shape does not count.
    """
    shape = experiment.student.model_copy(
        update={name: config.Student.model_fields[name].default for name in ("fit", "augment")}
    )
    return _measure(shape, _find_ears(experiment), num_classes)


def measure_latency(experiment: Experiment, num_classes: int) -> float:
    """The `latency_ms` of `measure_cost`."""
    return measure_cost(experiment, num_classes)["latency_ms"]


def _find_ears(experiment: Experiment) -> Backbone | None:
    has_backbone = experiment.student.has_backbone
    return find_backbone(experiment.backbone.name) if has_backbone else None


@functools.cache
def _measure(
    settings: config.Student, backbone: Backbone | None, num_classes: int
) -> dict[str, float]:
    state = torch.get_rng_state()
    try:
        found = measure_student(settings, backbone, num_classes)
    finally:
        torch.set_rng_state(state)
    return {"macs": found["macs"], "latency_ms": 1000 * found["latency_s"]}
