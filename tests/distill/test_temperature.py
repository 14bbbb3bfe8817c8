"""The temperature curriculum: its sign, its bounds, and where it begins."""

from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from serkd.config import Curriculum, Distill
from serkd.distill.curriculum import compute_first_temperature
from serkd.distill.temperature import build_temperature, weigh_gradient
from serkd.losses.logits import distillation

Mode = Literal["global", "instance"]
MODES = pytest.mark.parametrize("mode", ["global", "instance"])
NUM_CLASSES = 5


def _logits(scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    teacher, student = scale * torch.randn(2, 12, NUM_CLASSES, generator=generator)
    return teacher, student


def _build(mode: Mode, first: float = 4.0, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    settings = Curriculum(temperature_curriculum=mode)
    first = compute_first_temperature(Distill(temperature=first), settings)
    found = build_temperature(settings, first, NUM_CLASSES)
    assert found is not None
    return found


def test_off_builds_nothing() -> None:
    assert build_temperature(Curriculum(), 4.0, NUM_CLASSES) is None


@MODES
@pytest.mark.parametrize(
    ("first", "expected"), [(4.0, 4.0), (10.0, 10.0), (1.0, 1.25), (99, 10.75)]
)
def test_it_begins_at_the_plain_temperature_or_as_near_as_its_bounds_allow(
    mode: Mode, first: float, expected: float
) -> None:
    """The bounds are 1 and 11; a sigmoid nearer to them than a fortieth would hardly move."""
    found = _build(mode, first)(*_logits(), 0.0)
    torch.testing.assert_close(found, torch.full_like(found, expected), rtol=1e-5, atol=0.0)


@MODES
def test_a_gradient_step_makes_distillation_harder(mode: Mode) -> None:
    teacher, student = _logits()
    module = _build(mode)
    before = distillation(student, teacher, module(teacher, student, -1.0)).total
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    before.backward()
    optimizer.step()
    after = distillation(student, teacher, module(teacher, student, -1.0)).total
    assert after.item() > before.item()


@MODES
@pytest.mark.parametrize("reversal", [0.0, -0.3, -1.0])
def test_the_gradient_is_that_of_the_loss_weighted_lambda(mode: Mode, reversal: float) -> None:
    teacher, student = _logits()
    module = _build(mode)
    gradients = []
    for weight in (1.0, reversal):
        loss = distillation(student, teacher, module(teacher, student, weight)).total
        found = torch.autograd.grad(loss, list(module.parameters()))
        gradients.append(torch.cat([part.flatten() for part in found]))
    torch.testing.assert_close(gradients[1], reversal * gradients[0])
    assert gradients[0].abs().max() > 0


@MODES
def test_it_stays_within_its_bounds_whatever_is_said_and_learned(mode: Mode) -> None:
    module = _build(mode)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(100.0 * torch.randn_like(parameter))
    for scale in (1e-3, 1.0, 1e6):
        found = module(*_logits(scale), -1.0)
        assert torch.isfinite(found).all()
        assert (found >= 1.0).all()
        assert (found <= 11.0).all()


def test_a_temperature_of_its_own_depends_on_what_teacher_and_student_say() -> None:
    teacher, student = _logits()
    module = _build("instance")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    found = module(teacher, student, -1.0)
    assert found.shape == (12, 1)
    assert float(found.detach().std()) > 0
    changed = student.clone()
    changed[3] = -changed[3]
    moved = (module(teacher, changed, -1.0) != found).squeeze(1)
    assert moved.tolist() == [row == 3 for row in range(12)]


@MODES
def test_neither_teacher_nor_student_learns_through_the_temperature(mode: Mode) -> None:
    """They would learn to make it easy, instead of to answer."""
    teacher, student = (logits.requires_grad_() for logits in _logits())
    found = _build(mode)(teacher, student, -1.0)
    gradients = torch.autograd.grad(found.sum(), (teacher, student), allow_unused=True)
    assert gradients == (None, None)


def test_weighing_a_gradient_does_not_change_the_value() -> None:
    value = torch.randn(4, requires_grad=True)
    weighed = weigh_gradient(value, -0.5)
    assert torch.equal(weighed, value)
    (gradient,) = torch.autograd.grad((weighed * torch.arange(4.0)).sum(), value)
    torch.testing.assert_close(gradient, -0.5 * torch.arange(4.0))


@pytest.mark.parametrize("temperature", [1e-3, 4.0, 100.0])
@pytest.mark.parametrize("start", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("width", [0.01, 10.0, 100.0])
def test_any_bounds_that_a_recipe_may_have_begin_within_them(
    temperature: float, start: float, width: float
) -> None:
    """The least range is one that float32 can tell from its ends."""
    settings = Curriculum(
        temperature_curriculum="global", temperature_start=start, temperature_range=width
    )
    first = compute_first_temperature(Distill(temperature=temperature), settings)
    module = build_temperature(settings, first, 4)
    assert module is not None
    found = module(torch.zeros(1, 4), torch.zeros(1, 4), 0.0).item()
    assert found == pytest.approx(first, rel=1e-5)
    assert start < found < start + width
    with pytest.raises(ValidationError):
        Curriculum(temperature_range=1e-9)
