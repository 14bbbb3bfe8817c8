"""The average of a model's weights, against a sum written out."""

import numpy as np
import torch
from torch import nn

from serkd.train.average import WeightAverage


def _step(model: nn.Linear, number: int) -> np.ndarray:
    with torch.no_grad():
        model.weight.fill_(float(number**2))
    return np.full((2, 3), float(number**2))


def test_an_average_is_the_weighted_sum_of_all_weights_so_far() -> None:
    model = nn.Linear(3, 2)
    expected = model.weight.detach().numpy().astype(np.float64)
    average = WeightAverage(model, 0.7)
    for number in range(1, 30):
        value = _step(model, number)
        decay = min(0.7, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
        average.update()
    before = model.weight.clone()
    with average.installed():
        np.testing.assert_allclose(model.weight.detach().numpy(), expected, rtol=1e-5)
    assert torch.equal(model.weight, before)


def test_without_decay_the_weights_are_what_they_are() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model, 0.0)
    _step(model, 5)
    average.update()
    with average.installed():
        assert float(model.weight.detach().min()) == 25.0
    assert average.state() == {}


def test_an_average_goes_on_from_its_state() -> None:
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    first = WeightAverage(models[0], 0.9)
    for number in range(1, 6):
        _step(models[0], number)
        first.update()
    second = WeightAverage(models[1], 0.9)
    second.load_state(first.state())
    models[1].load_state_dict(models[0].state_dict())
    for average, model in zip((first, second), models, strict=True):
        _step(model, 9)
        average.update()
    for name, value in first.state().items():
        assert torch.equal(second.state()[name], value)
