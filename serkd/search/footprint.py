"""How large and how fast a student is, known before it is trained."""

import functools
import statistics
import time

import torch

from serkd import config
from serkd.models.student import build_student, count_parameters

SECONDS = 5.0  # of audio that latency is measured on
_PASSES = 7


def count_student(settings: config.Student, num_classes: int) -> int:
    """Parameters of a student; nothing is allocated."""
    with torch.device("meta"):
        return count_parameters(build_student(settings, num_classes))


def measure_latency(settings: config.Student, num_classes: int) -> float:
    """Milliseconds that one CPU thread takes from the log-mel of 5 s to logits; median of 7.

    Measured once for every shape in a process: what does not change the shape does not count.
    """
    shape = settings.model_copy(
        update={name: config.Student.model_fields[name].default for name in ("fit", "augment")}
    )
    return _measure(shape, num_classes)


@functools.cache
def _measure(settings: config.Student, num_classes: int) -> float:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = build_student(settings, num_classes).eval()
        num_frames = round(SECONDS * settings.logmel.frame_rate_hz)
        logmel = torch.zeros(1, num_frames, settings.logmel.num_mels)
        mask = torch.ones(1, num_frames, dtype=torch.bool)
        with torch.inference_mode():
            model(logmel, mask)  # the first pass is slower
            return statistics.median(_time_pass(model, logmel, mask) for _ in range(_PASSES))
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


def _time_pass(model: torch.nn.Module, logmel: torch.Tensor, mask: torch.Tensor) -> float:
    started = time.perf_counter()
    model(logmel, mask)
    return 1000 * (time.perf_counter() - started)
