"""Meta-knowledge: the teacher's gradient against differences of the quiz loss itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from serkd.distill.meta import HYPERGRADIENTS, Parameters
from serkd.losses.logits import distillation

PILOT_LR = 0.5


class _Lesson:
    """A student and a head on random inputs: the two losses that the meta step is given."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        self.head = nn.Linear(5, 3).double()
        self.inputs, self.quiz_inputs = torch.randn(2, 10, 6, dtype=torch.float64)
        self.embedding = torch.randn(10, 5, dtype=torch.float64)
        self.quiz_labels = torch.randint(3, (10,))
        self.parameters = dict(self.student.named_parameters())

    def loss(self, parameters: Parameters) -> Tensor:
        logits = functional_call(self.student, parameters, (self.inputs,))
        return distillation(logits, self.head(self.embedding), 2.0).total / 10

    def quiz(self, parameters: Parameters) -> Tensor:
        logits = functional_call(self.student, parameters, (self.quiz_inputs,))
        return F.cross_entropy(logits, self.quiz_labels)

    def gradient(self, order: str) -> tuple[Tensor, float]:
        parts, quiz_loss = HYPERGRADIENTS[order](
            self.parameters, [*self.head.parameters()], self.loss, self.quiz, PILOT_LR
        )
        return torch.cat([part.flatten() for part in parts]), quiz_loss

    def quiz_after_pilot(self) -> float:
        gradient = torch.autograd.grad(self.loss(self.parameters), [*self.parameters.values()])
        pairs = zip(self.parameters.items(), gradient, strict=True)
        pilot = {name: value - PILOT_LR * part for (name, value), part in pairs}
        return self.quiz(pilot).item()


def _numeric_gradient(lesson: _Lesson, step: float = 1e-5) -> Tensor:
    """Central differences of the pilot's quiz loss over every weight of the head."""
    found = []
    for weight in [*lesson.head.parameters()]:
        flat = weight.data.view(-1)
        for i in range(len(flat)):
            before, losses = flat[i].item(), []
            for sign in (1, -1):
                flat[i] = before + sign * step
                losses.append(lesson.quiz_after_pilot())
            flat[i] = before
            found.append((losses[0] - losses[1]) / (2 * step))
    return torch.tensor(found, dtype=torch.float64)


def test_second_order_is_the_gradient_of_the_pilots_quiz_loss() -> None:
    lesson = _Lesson()
    gradient, quiz_loss = lesson.gradient("second")
    torch.testing.assert_close(gradient, _numeric_gradient(lesson), rtol=1e-5, atol=1e-8)
    assert quiz_loss == pytest.approx(lesson.quiz_after_pilot(), rel=1e-12)


def test_finite_differences_agree_with_second_order_to_a_few_percent() -> None:
    lesson = _Lesson()
    (exact, exact_loss), (finite, finite_loss) = map(lesson.gradient, ("second", "finite"))
    assert float((finite - exact).norm() / exact.norm()) < 0.03
    assert finite_loss == pytest.approx(exact_loss, rel=1e-12)


@pytest.mark.parametrize("order", HYPERGRADIENTS)
def test_a_meta_gradient_changes_neither_student_nor_head(order: str) -> None:
    lesson = _Lesson()
    before = [
        p.detach().clone() for p in (*lesson.parameters.values(), *[*lesson.head.parameters()])
    ]
    lesson.gradient(order)
    after = [*lesson.parameters.values(), *[*lesson.head.parameters()]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("order", HYPERGRADIENTS)
def test_steps_along_the_gradient_lower_the_pilots_quiz_loss(order: str) -> None:
    lesson = _Lesson()
    before = lesson.quiz_after_pilot()
    for _ in range(20):
        parts, _ = HYPERGRADIENTS[order](
            lesson.parameters, [*lesson.head.parameters()], lesson.loss, lesson.quiz, PILOT_LR
        )
        with torch.no_grad():
            for weight, part in zip(lesson.head.parameters(), parts, strict=True):
                weight.sub_(part)
    assert lesson.quiz_after_pilot() < before


@pytest.mark.parametrize("order", HYPERGRADIENTS)
def test_a_loss_that_does_not_reach_the_teacher_gives_it_a_gradient_of_zero(order: str) -> None:
    """As where distillation has no weight yet."""
    lesson = _Lesson()
    parts, _ = HYPERGRADIENTS[order](
        lesson.parameters, [*lesson.head.parameters()], lesson.quiz, lesson.quiz, PILOT_LR
    )
    assert all(float(part.abs().max()) == 0.0 for part in parts)
