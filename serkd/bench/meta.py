"""What a student's step costs while its teacher learns from a quiz.

Random students of the default size, and the last layers of a teacher with the shape of HuBERT-base
and random weights, on noise. A time is the shortest of several.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from serkd import config
from serkd.bench.output import add_json, write_numbers
from serkd.distill.meta import HYPERGRADIENTS, Parameters
from serkd.errors import InputError
from serkd.features.backbone import find_backbone
from serkd.losses.logits import distillation
from serkd.models.student import build_student
from serkd.models.trunk import Trunk
from serkd.train.moving import MovingTeacher
from serkd.train.teacher import build_teacher

_CLASSES = 8


class _Noise:
    """Hidden states of utterances of one length."""

    def __init__(self, count: int, num_frames: int, dim: int) -> None:
        self.lengths, self.parts = np.full(count, num_frames), np.zeros(count, np.int64)
        self.hidden = torch.randn(count, num_frames, dim)

    def __call__(self, index: np.ndarray, stretch: Tensor | None) -> tuple[Tensor, ...]:
        return self.hidden[index], torch.ones(self.hidden.shape[:2], dtype=torch.bool)[index]


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print Markdown; `--json FILE` writes everything."""
    parser = argparse.ArgumentParser(prog="python -m serkd.bench meta", description=__doc__)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0, help="of an utterance")
    parser.add_argument("--last-layers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="default what torch chooses")
    add_json(parser)
    options = parser.parse_args(arguments)
    if min(options.batch_size, options.last_layers, options.repeats) < 1 or options.seconds < 0.5:
        raise InputError("--seconds must be 0.5 or more, the other numbers 1 or more")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ways = {
        **_student_ways(options.batch_size, round(100 * options.seconds)),
        **_teacher_ways(options.batch_size, round(50 * options.seconds), options.last_layers),
    }
    seconds = {name: _shortest(way, options.repeats) for name, way in ways.items()}
    rows = [f"| {name} | {1e3 * value:.0f} |" for name, value in seconds.items()]
    size = f"{options.batch_size} x {options.seconds:g} s, {torch.get_num_threads()} thread(s)"
    print("\n".join([f"| {size} | ms |", "|---|---|", *rows]))
    write_numbers(options.json, seconds)


def _shortest(way: Callable[[], object], repeats: int) -> float:
    way()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        way()
        found.append(time.perf_counter() - started)
    return min(found)


def _student_ways(count: int, num_frames: int) -> dict[str, Callable[[], object]]:
    """A plain step, and the gradient of the quiz by each order."""
    student = build_student(config.Student(), _CLASSES, num_channels=80)
    inputs = torch.randn(count, num_frames, 80), torch.ones(count, num_frames, dtype=torch.bool)
    labels = torch.randint(_CLASSES, (count,))
    says = torch.randn(count, _CLASSES, requires_grad=True)

    def quiz(parameters: Parameters) -> Tensor:
        return F.cross_entropy(functional_call(student, parameters, inputs).logits, labels)

    def loss(parameters: Parameters) -> Tensor:
        logits = functional_call(student, parameters, inputs).logits
        return F.cross_entropy(logits, labels) + distillation(logits, says, 4.0).total / count

    def step() -> None:
        student.train().zero_grad()
        loss(dict(student.named_parameters())).backward()

    def lesson(order: str) -> None:
        student.eval()
        with sdpa_kernel(SDPBackend.MATH):
            parameters: Parameters = dict(student.named_parameters())
            HYPERGRADIENTS[order](parameters, [says], loss, quiz, 1e-3)

    orders = {
        f"{name}: quiz to teacher's outputs": partial(lesson, name) for name in HYPERGRADIENTS
    }
    return {"student's step": step, **orders}


def _teacher_ways(count: int, num_frames: int, layers: int) -> dict[str, Callable[[], object]]:
    """The outputs of its last layers, and the gradient from there to their weights."""
    model, dim = _build_top(layers)
    teacher = MovingTeacher(model, _Noise(count, num_frames, dim), 1e-4, torch.device("cpu"))
    index = np.arange(count)
    upstream = [torch.randn_like(output) for output in teacher.read(index)]
    name = f"last {layers} layer(s)"
    return {
        f"{name}: outputs": lambda: teacher.read(index),
        f"{name}: gradient": lambda: teacher.pull_back(index, upstream),
    }


def _build_top(layers: int) -> tuple[nn.Module, int]:
    import transformers

    with TemporaryDirectory(prefix="serkd-bench-") as folder:
        shape = transformers.HubertConfig(num_hidden_layers=layers)
        transformers.HubertModel(shape).save_pretrained(folder)
        backbone = find_backbone(folder)
        trunk = Trunk(backbone, 0)
        model = build_teacher(config.Stage2(), trunk.build_suffix(), trunk, _CLASSES)
    return model, backbone.dim
