"""Frozen encoders made faster on a CPU, to the rounding of float32."""

import os

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# oneDNN keeps the kernels that it made for every length of utterance, 1024 of them: of HuBERT-base
# a gigabyte after a hundred lengths. A pass needs a dozen, and lengths hardly come twice.
_ONEDNN_KERNELS = "32"


def multiply(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input (..., I) @ weight (O, I).T + bias (O,) by oneDNN instead of MKL; has no gradient.

    MKL uses AVX-512 on Intel only: a core of an AMD EPYC (Zen 5) was measured at 95 GFLOP/s with
    it and at 205 with oneDNN. The operator is what torch.compile replaces linear layers by.
    """
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


class _OneDnnLinear(nn.Linear):
    """A linear layer for inference."""

    def forward(self, input: Tensor) -> Tensor:
        return multiply(input, self.weight, self.bias)


def has_fast_linear() -> bool:
    """Whether this torch and this CPU can do better than torch's own linear layers."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def speed_up(model: nn.Module, device: str) -> nn.Module:
    """Prepare a model, in place, for inference only; returns it on the device.

    The weight of a weight-normalised convolution is computed once instead of at every call, and
    oneDNN's memory is bounded, if this is the first that the process wants of it.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _ONEDNN_KERNELS)
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    if device == "cpu" and has_fast_linear():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = _OneDnnLinear
    return model.requires_grad_(False).eval().to(device)
