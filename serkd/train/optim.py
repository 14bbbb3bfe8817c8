"""AdamW with groups, its schedule, and its state as plain tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def build_optimizer(
    groups: Sequence[tuple[str, nn.Module | nn.Parameter, float]], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over (name, module, peak learning rate); vectors (biases, norms) do not decay."""
    built: list[dict[str, Any]] = []
    for name, module, lr in groups:
        parameters = [module] if isinstance(module, nn.Parameter) else list(module.parameters())
        trained = [p for p in parameters if p.requires_grad]
        matrices = [p for p in trained if p.ndim >= 2]
        vectors = [p for p in trained if p.ndim < 2]
        for members, decay in ((matrices, weight_decay), (vectors, 0.0)):
            if members:
                built.append(
                    {"params": members, "lr": lr, "peak": lr, "weight_decay": decay, "name": name}
                )
    return torch.optim.AdamW(built, fused=True)


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Share of the peak at `progress` in [0, 1]: linear warm-up, then cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1e-12, 1 - warmup)))


def set_learning_rates(
    optimizer: torch.optim.Optimizer, factor: float, by_group: Mapping[str, float] | None = None
) -> None:
    """Scale every group's peak by `factor`, and that of some by a factor of their own."""
    own = by_group or {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor * own.get(group["name"], 1.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as a flat mapping, for safetensors."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, _, name = key.partition(".")
        state.setdefault(int(i), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
