"""A teacher that learns on while its student does."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from serkd.distill.meta import compute_norm
from serkd.train.batches import plan_evaluation, split_batch
from serkd.train.checkpoint import join_parts, take_part
from serkd.train.optim import load_optimizer_tensors, optimizer_tensors

_CLIP_NORM = 1.0


class Says(NamedTuple):
    """A teacher's `logits` (B, C) and `embedding` (B, E)."""

    logits: Tensor
    embedding: Tensor


class Inputs(Protocol):
    """What the moving part reads of utterance i, of `lengths` (U,) frames, stored in `parts`.

    `stretch` (B, 2) is where they begin and end, as shares of the utterance; None = all of it.
    """

    lengths: np.ndarray
    parts: np.ndarray

    def __call__(self, index: np.ndarray, stretch: Tensor | None) -> tuple[Tensor, ...]: ...


class MovingTeacher:
    """`model`, of which every trained parameter learns by Adam, in evaluation mode throughout.

    Its outputs for utterances, and the gradient of anything that depends on them. `max_frames`
    are the padded frames that are in memory at once.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        lr: float,
        device: torch.device,
        max_frames: int | None = None,
    ) -> None:
        self.model, self.inputs, self.max_frames = model.eval().to(device), inputs, max_frames
        self.device = device
        self.start = [weight.detach().clone() for weight in self.weights()]
        self.optimizer = torch.optim.Adam(self.weights(), lr)

    def weights(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def _cut(self, index: np.ndarray) -> list[np.ndarray]:
        """Positions in `index` that are passed together."""
        return split_batch(self.inputs.lengths[index], np.arange(len(index)), self.max_frames)

    def _forward(self, index: np.ndarray, stretch: Tensor | None) -> Says:
        output = self.model(*(part.to(self.device) for part in self.inputs(index, stretch)))
        return Says(output.logits, output.embedding)

    @torch.no_grad()
    def read(self, index: np.ndarray, stretch: Tensor | None = None) -> Says:
        """What it says of utterances (B,) now, without gradient.

        It hears no more of them than `stretch` (B, 2), from which share of each to which.
        """
        places = self._cut(index)
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        found = [self._forward(index[some], _take(stretch, some)) for some in places]
        return Says(*(torch.cat(parts)[back] for parts in zip(*found, strict=True)))

    def pull_back(
        self,
        index: np.ndarray,
        outputs_gradient: Sequence[Tensor],
        stretch: Tensor | None = None,
    ) -> list[Tensor]:
        """The gradient of the weights from that of `read`: one backward pass."""
        total = [torch.zeros_like(weight) for weight in self.weights()]
        for some in self._cut(index):
            pairs = [
                (output, gradient[some])
                for output, gradient in zip(
                    self._forward(index[some], _take(stretch, some)),
                    outputs_gradient,
                    strict=True,
                )
                if output.requires_grad  # a head's embeddings are stored ones
            ]
            outputs, gradients = zip(*pairs, strict=True)
            parts = torch.autograd.grad(
                outputs, self.weights(), gradients, allow_unused=True, materialize_grads=True
            )
            total = [a + b for a, b in zip(total, parts, strict=True)]
        return total

    def descend(self, gradient: Sequence[Tensor]) -> None:
        """A step of Adam, the gradient clipped to norm 1; none where nothing is to be learned.

        Raises:
            FloatingPointError: the gradient is not finite; the teacher has not moved.
        """
        norm = float(compute_norm(gradient))
        if not math.isfinite(norm):
            raise FloatingPointError(
                "the gradient of the teacher that learns from the quiz must be finite, got "
                f"{norm}; a lower meta.pilot_lr may help"
            )
        if norm == 0.0:
            return
        for weight, part in zip(self.weights(), gradient, strict=True):
            weight.grad = part * min(1.0, _CLIP_NORM / norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def drift(self) -> float:
        """Distance from the stage-2 teacher, relative to the norm of what moves."""
        moved = [now - before for now, before in zip(self.weights(), self.start, strict=True)]
        return float(compute_norm(moved) / compute_norm(self.start))

    def predict(self, index: np.ndarray) -> np.ndarray:
        """Logits (B, C) of utterances (B,), in batches of similar length."""
        plan = plan_evaluation(self.inputs.lengths, self.inputs.parts, index, self.max_frames)
        rows = np.concatenate([self.read(batch).logits.float().cpu().numpy() for batch in plan])
        place = {int(i): row for row, i in enumerate(np.concatenate(plan))}
        return rows[[place[int(i)] for i in index]]

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs: weights and the optimizer's moments."""
        return join_parts(
            model=self.model.state_dict(), optimizer=optimizer_tensors(self.optimizer)
        )

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self.model.load_state_dict(take_part(tensors, "model"))
        load_optimizer_tensors(self.optimizer, take_part(tensors, "optimizer"))


def _take(stretch: Tensor | None, some: np.ndarray) -> Tensor | None:
    return None if stretch is None else stretch[some]
