"""Meta-knowledge: how a teacher's outputs change what the student it taught does on a quiz.

MetaDistil (Zhou et al., arXiv 2106.04570, algorithm 1). The gradient is taken with respect to
whatever tensors the student's loss depends on: of the teacher's outputs for a batch it is all that
the teacher needs, which then takes part in one ordinary backward pass and in no second derivative.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
StudentLoss = Callable[[Parameters], Tensor]  # what the student learns, at given parameters
QuizLoss = Callable[[Parameters], Tensor]  # task loss on the quiz split at given parameters

# over the norm of the quiz gradient; DARTS (arXiv 1806.09055, eq. 8) has 0.01. Losses of students
# are more curved: tiny tokens on convolutions were 89 % from the exact gradient with 0.003, 6 %
# with 0.0003. In float32 there is room for this, and for a third of it
_FINITE_STEP = 0.0001


def compute_norm(parts: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all elements of several tensors."""
    return torch.stack([part.square().sum() for part in parts]).sum().sqrt()


def share_step(quiz: Sequence[Tensor], own: Sequence[Tensor], rho: float) -> list[Tensor]:
    """(1 - rho) of the quiz's gradient and rho of the teacher's own, at the quiz's length.

    The quiz's has the pilot's learning rate as a factor: of a plain sum the own one would be more
    than 99 % whatever rho says [our choice].
    """
    length = float(compute_norm(own))
    factor = rho * float(compute_norm(quiz)) / length if length != 0 else 0.0
    return [(1 - rho) * a + factor * b for a, b in zip(quiz, own, strict=True)]


def _gradient(
    value: Tensor, of: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Zeros where a tensor has no part in the value, as the projector has none in the quiz."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(one) for one in of)
    return torch.autograd.grad(
        value, of, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def second_order(
    student: Parameters,
    taught_by: Sequence[Tensor],
    loss: StudentLoss,
    quiz: QuizLoss,
    pilot_lr: float,
) -> tuple[list[Tensor], float]:
    """Exact gradient of the quiz loss after a pilot step, with respect to `taught_by`.

    pilot = student - pilot_lr · ∇loss(student), graph kept; returns d quiz(pilot) / d taught_by and
    the quiz loss.
    """
    gradient = _gradient(loss(student), list(student.values()), create_graph=True)
    pilot = {
        name: value - pilot_lr * part
        for (name, value), part in zip(student.items(), gradient, strict=True)
    }
    result = quiz(pilot)
    return list(_gradient(result, taught_by)), float(result.detach())


def finite_difference(
    student: Parameters,
    taught_by: Sequence[Tensor],
    loss: StudentLoss,
    quiz: QuizLoss,
    pilot_lr: float,
) -> tuple[list[Tensor], float]:
    """The same without double backward: central differences along the quiz gradient g.

    -pilot_lr · [∇loss(student + εg) - ∇loss(student - εg)] / 2ε with ε = 0.0001 / ||g||, ∇ with
    respect to `taught_by`.
    """
    gradient = _gradient(loss(student), list(student.values()))
    pilot = {
        name: (value - pilot_lr * part).detach().requires_grad_()
        for (name, value), part in zip(student.items(), gradient, strict=True)
    }
    result = quiz(pilot)
    direction = _gradient(result, list(pilot.values()))
    epsilon = _FINITE_STEP / (float(compute_norm(direction)) + 1e-12)

    def moved_gradient(sign: float) -> tuple[Tensor, ...]:
        moved = {
            name: (value + sign * epsilon * part).detach()
            for (name, value), part in zip(student.items(), direction, strict=True)
        }
        return _gradient(loss(moved), taught_by)

    pairs = zip(moved_gradient(1.0), moved_gradient(-1.0), strict=True)
    return [-pilot_lr * (up - down) / (2 * epsilon) for up, down in pairs], float(result.detach())


HYPERGRADIENTS = {"second": second_order, "finite": finite_difference}
