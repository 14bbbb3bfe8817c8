"""Linear layers by oneDNN: torch's numbers and gradients, and torch's own layers where not."""

import copy

import pytest
import torch
from torch import nn

from serkd.features.fast import has_fast_linear
from serkd.models.linear import speed_up_training

needs_onednn = pytest.mark.skipif(not has_fast_linear(), reason="the CPU gains nothing from it")


def _model(*, has_bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40, bias=has_bias), nn.GELU(), nn.Linear(40, 8))


@needs_onednn
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 24), (3, 7, 24), (1, 1, 24), (2, 3, 4, 24)])
def test_values_and_gradients_are_torchs(shape: tuple[int, ...], has_bias: bool) -> None:
    plain = _model(has_bias=has_bias)
    fast = copy.deepcopy(plain)
    speed_up_training(fast, "cpu")
    assert all(type(m) is not nn.Linear for m in fast.modules())
    inputs = torch.randn(shape)
    found = []
    for model in (plain, fast):
        leaf = inputs.clone().requires_grad_()
        # the gradient that comes back is not contiguous
        out = model(leaf).transpose(0, -2)
        (out.square().sum() + out.tanh()[..., 1:].sum()).backward()
        found.append([out, leaf.grad, *(p.grad for p in model.parameters())])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_frozen_weights_get_no_gradient_and_weights_are_kept_under_their_names() -> None:
    plain = _model()
    fast = copy.deepcopy(plain)
    speed_up_training(fast, "cpu")
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast[0].weight.requires_grad_(False)
    fast(torch.randn(3, 24)).sum().backward()
    assert fast[0].weight.grad is None
    assert fast[0].bias.grad is not None
    with torch.inference_mode():
        inputs = torch.randn(3, 24)
        torch.testing.assert_close(fast(inputs), plain(inputs), rtol=1e-5, atol=1e-5)


@needs_onednn
def test_other_precisions_are_left_to_torch() -> None:
    plain = _model()
    fast = copy.deepcopy(plain)
    speed_up_training(fast, "cpu")
    inputs = torch.randn(3, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(inputs).dtype == torch.bfloat16
        assert torch.equal(fast(inputs), plain(inputs))
    assert torch.equal(fast.double()(inputs.double()), plain.double()(inputs.double()))


def test_other_devices_and_cpus_keep_torchs_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    speed_up_training(model, "cuda")
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    speed_up_training(model, "cpu")
    assert type(model[0]) is nn.Linear
