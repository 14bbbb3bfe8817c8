"""Linear layers that train faster on a CPU, to the rounding of float32."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from serkd.features.fast import has_fast_linear, multiply


class _Product(torch.autograd.Function):
    """input @ weight.T + bias by oneDNN, its three products and their gradients alike."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(input, weight)
        return multiply(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        input, weight = ctx.saved_tensors
        rows, (for_input, for_weight, for_bias) = grad.flatten(0, -2), ctx.needs_input_grad
        return (
            multiply(grad, weight.t()) if for_input else None,
            multiply(rows.t(), input.flatten(0, -2).t()) if for_weight else None,
            rows.sum(dim=0) if for_bias else None,
        )


class _TrainedLinear(nn.Linear):
    """A linear layer with the products of `_Product`; of float32 outside of autocast only."""

    def forward(self, input: Tensor) -> Tensor:
        # torch's compiler makes products of its own, and knows this operator in inference only
        is_plain = torch.compiler.is_compiling() or input.dtype != torch.float32
        if is_plain or torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)


def speed_up_training(model: nn.Module, device: str | torch.device) -> None:
    """Replace a model's linear layers, in place, where the device is a CPU that gains from it.

    Their weights stay as they are. There is no second derivative.
    """
    if torch.device(device).type == "cpu" and has_fast_linear():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = _TrainedLinear
