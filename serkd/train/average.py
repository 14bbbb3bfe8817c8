"""A moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_COUNT = "count"


class WeightAverage:
    """average <- decay·average + (1 - decay)·weights after each step; with decay 0, the weights.

    Buffers, such as running statistics, are averaged too. Young averages forget faster: the decay
    is at most (1 + n) / (10 + n) at step n (as in TensorFlow's ExponentialMovingAverage), or the
    random start would stay in it for 1 / (1 - decay) steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.count = model, decay, 0
        self.values = _copy(model) if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        if self.decay:
            for name, value in self.model.state_dict().items():
                self.values[name].lerp_(value, 1 - decay)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The model with the average as its weights."""
        if not self.decay:
            yield
            return
        weights = _copy(self.model)
        self.model.load_state_dict(self.values)
        try:
            yield
        finally:
            self.model.load_state_dict(weights)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {**self.values, _COUNT: torch.tensor(self.count)} if self.decay else {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        if self.decay:
            self.count = int(tensors[_COUNT])
            for name, value in self.values.items():
                value.copy_(tensors[name])


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
