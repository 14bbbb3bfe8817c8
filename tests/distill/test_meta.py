"""Meta-knowledge: the head's gradient against differences of the quiz loss itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from serkd.distill.meta import HYPERGRADIENTS, MetaHead, Parameters, choose_quiz
from serkd.errors import InputError
from serkd.losses.logits import distillation

PILOT_LR = 0.5


class _Lesson:
    """A student and a head on random inputs: the two losses that the meta step is given."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        self.head = MetaHead(nn.Linear(5, 3), 2.0, lr=0.1).double()
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
            self.parameters, self.head.weights(), self.loss, self.quiz, PILOT_LR
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
    for weight in lesson.head.weights():
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
    before = [p.detach().clone() for p in (*lesson.parameters.values(), *lesson.head.weights())]
    lesson.gradient(order)
    after = [*lesson.parameters.values(), *lesson.head.weights()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("order", HYPERGRADIENTS)
def test_meta_steps_lower_the_pilots_quiz_loss(order: str) -> None:
    lesson = _Lesson()
    before = lesson.quiz_after_pilot()
    for _ in range(20):
        parts, _ = HYPERGRADIENTS[order](
            lesson.parameters, lesson.head.weights(), lesson.loss, lesson.quiz, PILOT_LR
        )
        lesson.head.take_step(parts)
    assert lesson.quiz_after_pilot() < before
    assert lesson.head.drift() > 0


def test_a_meta_step_is_clipped_to_the_learning_rate() -> None:
    lesson = _Lesson()
    before = [w.detach().clone() for w in lesson.head.weights()]
    lesson.head.take_step([1e6 * torch.ones_like(w) for w in lesson.head.weights()])
    moved = [(w - b).square().sum() for w, b in zip(lesson.head.weights(), before, strict=True)]
    assert torch.stack(moved).sum().sqrt().item() == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.45])
def test_the_quiz_has_whole_speakers_at_least_the_share_and_leaves_every_class(
    share: float,
) -> None:
    rng = np.random.default_rng(0)
    speakers = [f"s{i}" for i in rng.integers(10, size=300)]
    labels = rng.integers(4, size=300)
    labels[np.array(speakers) == "s3"] = 4  # only this speaker has class 4
    for seed in range(10):
        quiz = choose_quiz(speakers, labels, share, seed)
        asked = {s for s, is_quiz in zip(speakers, quiz, strict=True) if is_quiz}
        taught = {s for s, is_quiz in zip(speakers, quiz, strict=True) if not is_quiz}
        assert not asked & taught
        assert quiz.mean() >= share
        assert set(labels[~quiz]) == {0, 1, 2, 3, 4}
        np.testing.assert_array_equal(quiz, choose_quiz(speakers, labels, share, seed))


def test_a_quiz_that_would_cost_a_class_whoever_takes_it_is_refused() -> None:
    """Each speaker is the only one with some class, so nobody can be asked."""
    with pytest.raises(InputError, match=r"meta\.quiz_share"):
        choose_quiz(["a", "b", "b"], np.array([0, 1, 2]), 0.1, seed=0)
