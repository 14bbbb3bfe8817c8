"""One optimizer step over any number of workers and micro-batches, in any precision."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from serkd.train.optim import build_optimizer
from serkd.train.source import Padded
from serkd.train.task import Step, Task
from serkd.train.workers import Workers

_MOST_SKIPS = 20  # in a row: by then the scale has fallen from 2^16 to 2^-4


@dataclass
class LossScale:
    """What the loss is multiplied by so that float16 gradients do not vanish.

    Halved when they overflow, doubled after 2,000 steps without (Micikevicius et al., arXiv
    1710.03740, section 3.2). Other precisions have the range of float32 and a scale of 1.
    """

    value: float = 2.0**16
    steady_steps: int = 0
    skips: int = 0  # in a row

    def skip(self) -> None:
        """A step overflowed."""
        self.value, self.steady_steps, self.skips = self.value / 2, 0, self.skips + 1

    def keep(self) -> None:
        """A step did not."""
        self.steady_steps, self.skips = self.steady_steps + 1, 0
        if self.steady_steps == 2_000:
            self.value, self.steady_steps = self.value * 2, 0


class _Loss(nn.Module):
    """A task's loss as a module: what DistributedDataParallel can wrap."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        for i, (_, trained, _) in enumerate(task.parameter_groups()):
            setattr(self, f"group_{i}", trained)

    def forward(
        self, index: np.ndarray, batch: Padded, step: Step, divisors: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """The loss, and each term of it, (T,), in the order of `divisors`."""
        # around a forward pass and no more: a context keeps the casts of the weights that it began
        # with, and would train on them for its whole length
        with torch.autocast(
            self.task.device.type,
            getattr(torch, self.task.precision),
            enabled=self.task.precision != "float32",
        ):
            terms = self.task.terms(index, batch, step)
        parts = [terms[n].weight * terms[n].total / divisors[n] for n in divisors]
        values = torch.stack(parts)
        return values.sum(), values.detach()


class Stepper:
    """Takes the steps of a task together with the other workers.

    Gradients are summed over workers and micro-batches and divided by the global count of each
    term, so any number of either takes the same steps.
    """

    def __init__(self, task: Task, workers: Workers) -> None:
        self.task, self.workers = task, workers
        self.optimizer = build_optimizer(task.parameter_groups(), task.fit.weight_decay)
        self.scale = LossScale() if task.precision == "float16" else None
        self.module: nn.Module = _Loss(task)
        if workers.size > 1:
            # buffers are equal on all workers as it is; which parameters a loss does not reach
            # depends on the settings
            self.module = DistributedDataParallel(
                self.module,
                broadcast_buffers=False,
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
            )

    @property
    def state(self) -> dict[str, float]:
        """What a resumed run needs beside the optimizer's tensors."""
        return {} if self.scale is None else asdict(self.scale)

    def load_state(self, state: Mapping[str, float]) -> None:
        """Inverse of `state`."""
        if self.scale is not None:
            self.scale = LossScale(state["value"], int(state["steady_steps"]), int(state["skips"]))

    def take(
        self, step: Step, micro_batches: Sequence[np.ndarray], loaded: Iterator[Padded]
    ) -> dict[str, float]:
        """One step on this worker's part of a batch; the loss's terms and the gradient's norm.

        Raises:
            FloatingPointError: the loss or the gradient is not finite, on any worker; all raise it,
                and none takes the step. In float16 all skip the step, up to 20 in a row.
        """
        divisors = self._divisors(step, micro_batches)
        self.optimizer.zero_grad()
        total = torch.zeros(len(divisors), dtype=torch.float64)
        for number, index in enumerate(micro_batches):
            with self._synchronised(is_last=number == len(micro_batches) - 1):
                loss, values = self.module(index, next(loaded), step, divisors)
                # the workers' gradients are averaged
                (loss * self._factor * self.workers.size).backward()
            total += values.cpu()
        norm = self._gradient_norm()
        # every worker decides on the same sums, so none waits for another
        has_broken = torch.tensor([float(not math.isfinite(norm))], dtype=torch.float64)
        *values, num_broken = self.workers.sum(torch.cat([total, has_broken])).tolist()
        scalars = {f"loss/{n}": v for n, v in zip(divisors, values, strict=True)}
        scalars = {"loss": sum(values), **scalars, "grad_norm": norm}
        if num_broken or not math.isfinite(scalars["loss"]):
            return self._refuse(scalars)
        self._descend(norm)
        return scalars if self.scale is None else {**scalars, "skipped_steps": 0.0}

    @property
    def _factor(self) -> float:
        return 1.0 if self.scale is None else self.scale.value

    def _divisors(self, step: Step, micro_batches: Sequence[np.ndarray]) -> dict[str, float]:
        """The global count of each term, sorted by name."""
        counts = [self.task.counts(index, step) for index in micro_batches]
        names = sorted(counts[0])
        sums = [sum(count[name] for count in counts) for name in names]
        total = self.workers.sum(torch.tensor(sums, dtype=torch.float64)).tolist()
        return {name: value or 1.0 for name, value in zip(names, total, strict=True)}

    def _synchronised(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged in the last backward pass of a step, while it runs."""
        if is_last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    def _gradients(self) -> list[Tensor]:
        members = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [p.grad for p in members if p.grad is not None]

    def _gradient_norm(self) -> float:
        return float(torch.nn.utils.get_total_norm(self._gradients())) / self._factor

    def _descend(self, norm: float) -> None:
        factor = min(1.0, self.task.fit.clip_norm / (norm + 1e-6)) / self._factor
        if factor != 1.0:
            for gradient in self._gradients():
                gradient.mul_(factor)
        self.optimizer.step()
        if self.scale is not None:
            self.scale.keep()

    def _refuse(self, scalars: Mapping[str, float]) -> dict[str, float]:
        if self.scale is not None and self.scale.skips < _MOST_SKIPS:
            self.scale.skip()
            finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
            return {**finite, "skipped_steps": 1.0}
        often = "" if self.scale is None else f" ({_MOST_SKIPS} steps in a row were skipped)"
        raise FloatingPointError(
            f"{self.task.name}: loss and gradient must be finite, got {dict(scalars)}{often}; a "
            "lower fit.lr may help"
        )
