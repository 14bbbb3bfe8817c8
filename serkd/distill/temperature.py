"""The temperature curriculum: a temperature that learns to make distillation harder.

CTKD (Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023, arXiv 2211.16231).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from serkd.config import Curriculum

_HIDDEN = 64


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: float) -> Tensor:  # noqa: ANN401
        ctx.weight = weight
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return ctx.weight * grads[0], None


def weigh_gradient(value: Tensor, weight: float) -> Tensor:
    """The value itself, whose gradient is multiplied by `weight`; below 0 it is reversed."""
    return _Weigh.apply(value, weight)


class CurriculumTemperature(nn.Module):
    """start + range·sigmoid(theta), so always within its bounds; the gradient is weighted lambda.

    At first it is `first`, which is within them [our choice: at lambda = 0 this is plain
    distillation; the paper's code starts at theta = 1].
    """

    def __init__(self, settings: Curriculum, first: float) -> None:
        super().__init__()
        self.start, self.range = settings.temperature_start, settings.temperature_range
        share = (first - self.start) / self.range
        self.first_theta = math.log(share / (1 - share))

    def theta(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """Unbounded, () or (N, 1)."""
        raise NotImplementedError

    def forward(self, teacher_logits: Tensor, student_logits: Tensor, reversal: float) -> Tensor:
        """Temperatures, () or (N, 1), for logits (N, C); `reversal` is lambda in [-1, 0]."""
        # neither may learn to change the temperature instead of the answer [our choice]
        theta = self.theta(teacher_logits.detach(), student_logits.detach())
        return self.start + self.range * torch.sigmoid(weigh_gradient(theta, reversal))


class GlobalTemperature(CurriculumTemperature):
    """One temperature for all utterances."""

    def __init__(self, settings: Curriculum, first: float) -> None:
        super().__init__(settings, first)
        self.value = nn.Parameter(torch.tensor(self.first_theta))

    def theta(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return self.value


class InstanceTemperature(CurriculumTemperature):
    """One for each utterance, from what teacher and student say of it (logits, side by side)."""

    def __init__(self, settings: Curriculum, first: float, num_classes: int) -> None:
        super().__init__(settings, first)
        last = nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, self.first_theta)
        self.layers = nn.Sequential(nn.Linear(2 * num_classes, _HIDDEN), nn.ReLU(), last)

    def theta(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return self.layers(torch.cat([teacher_logits, student_logits], dim=1))


def build_temperature(
    settings: Curriculum, first: float, num_classes: int
) -> CurriculumTemperature | None:
    """What `temperature_curriculum` asks for; None where it is off."""
    if settings.temperature_curriculum == "off":
        return None
    if settings.temperature_curriculum == "global":
        return GlobalTemperature(settings, first)
    return InstanceTemperature(settings, first, num_classes)
