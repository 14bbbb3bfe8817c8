"""Meta-knowledge: the teacher's head learns from how well the student it taught does on a quiz.

MetaDistil (Zhou et al., arXiv 2106.04570, algorithm 1) with the head of the stage-2 teacher as its
trainable part, on stored embeddings, so that a step costs the student only.
"""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from serkd.errors import InputError

Parameters = dict[str, Tensor]
StudentLoss = Callable[[Parameters], Tensor]  # distillation loss at given student parameters
QuizLoss = Callable[[Parameters], Tensor]  # task loss on the quiz split at given parameters

_FINITE_STEP = 0.01  # over the norm of the quiz gradient, as in DARTS (arXiv 1806.09055, eq. 8)
_CLIP_NORM = 1.0


class MetaHead(nn.Module):
    """A classifier on stored embeddings that takes plain gradient steps.

    Plain, without moments, so that its weights are all the state there is to keep.
    """

    def __init__(self, classifier: nn.Module, scale: float, lr: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.start = copy.deepcopy(classifier).requires_grad_(False)
        self.scale, self.lr = scale, lr

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings (B, E) to logits (B, C), with gradient."""
        return self.scale * self.classifier(embedding)

    def weights(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return list(self.classifier.parameters())

    @torch.no_grad()
    def take_step(self, gradient: Sequence[Tensor]) -> None:
        """Descend, the gradient clipped to norm 1."""
        norm = torch.stack([part.square().sum() for part in gradient]).sum().sqrt()
        factor = self.lr * min(1.0, _CLIP_NORM / (float(norm) + 1e-12))
        for weight, part in zip(self.weights(), gradient, strict=True):
            weight.sub_(factor * part)

    @torch.no_grad()
    def drift(self) -> float:
        """Distance from the stage-2 head, relative to its norm."""
        pairs = zip(self.weights(), self.start.parameters(), strict=True)
        moved = sum(float((now - before).square().sum()) for now, before in pairs)
        return float(np.sqrt(moved / sum(float(p.square().sum()) for p in self.start.parameters())))


def _gradient(
    value: Tensor, of: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Zeros where a tensor has no part in the value, as the projector has none in distillation."""
    return torch.autograd.grad(
        value, of, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def second_order(
    student: Parameters,
    weights: Sequence[Tensor],
    loss: StudentLoss,
    quiz: QuizLoss,
    pilot_lr: float,
) -> tuple[list[Tensor], float]:
    """Exact gradient of the quiz loss after a pilot step, with respect to the head's `weights`.

    pilot = student - pilot_lr · ∇loss(student), graph kept; returns d quiz(pilot) / d weights and
    the quiz loss.
    """
    gradient = _gradient(loss(student), list(student.values()), create_graph=True)
    pilot = {
        name: value - pilot_lr * part
        for (name, value), part in zip(student.items(), gradient, strict=True)
    }
    result = quiz(pilot)
    return list(_gradient(result, weights)), float(result.detach())


def finite_difference(
    student: Parameters,
    weights: Sequence[Tensor],
    loss: StudentLoss,
    quiz: QuizLoss,
    pilot_lr: float,
) -> tuple[list[Tensor], float]:
    """The same without double backward: central differences along the quiz gradient g.

    -pilot_lr · [∇_w loss(student + εg) - ∇_w loss(student - εg)] / 2ε with ε = 0.01 / ||g||.
    """
    gradient = _gradient(loss(student), list(student.values()))
    pilot = {
        name: (value - pilot_lr * part).detach().requires_grad_()
        for (name, value), part in zip(student.items(), gradient, strict=True)
    }
    result = quiz(pilot)
    direction = _gradient(result, list(pilot.values()))
    norm = torch.stack([part.square().sum() for part in direction]).sum().sqrt()
    epsilon = _FINITE_STEP / (float(norm) + 1e-12)

    def head_gradient(sign: float) -> tuple[Tensor, ...]:
        moved = {
            name: (value + sign * epsilon * part).detach()
            for (name, value), part in zip(student.items(), direction, strict=True)
        }
        return _gradient(loss(moved), weights)

    pairs = zip(head_gradient(1.0), head_gradient(-1.0), strict=True)
    return [-pilot_lr * (up - down) / (2 * epsilon) for up, down in pairs], float(result.detach())


HYPERGRADIENTS = {"second": second_order, "finite": finite_difference}


def choose_quiz(speakers: Sequence[str], labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which training utterances (U,) bool form the quiz: whole speakers, at least `share` of them.

    Speakers are added in random order, skipping any without whom a class would be lost from
    training.

    Raises:
        InputError: no speaker can be spared.
    """
    quiz = np.zeros(len(labels), bool)
    names = np.asarray(speakers)
    for speaker in np.random.default_rng(seed).permutation(np.unique(names)):
        if quiz.mean() >= share:
            break
        candidate = quiz | (names == speaker)
        if len(np.unique(labels[~candidate])) == len(np.unique(labels)):
            quiz = candidate
    if not quiz.any():
        raise InputError(
            f"meta.quiz_share must leave training every emotion, but with {share} of whole "
            "speakers no speaker can be spared: each is the only one with some emotion"
        )
    return quiz
