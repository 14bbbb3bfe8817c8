"""What students cost to use and to train, of every family and size.

Latency is that of one utterance on one thread, from waveform to logits, against a teacher with the
shape of HuBERT-base, as fast as serkd can run it; weights are random and the speech is noise.
Training (forward and backward) and evaluation are an epoch's batches of stored log-mel, padded at
once, against one utterance after the other whose log-mel is computed from the waveform every time.
All that is compared takes turns, since a machine's speed changes; a time is the median.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from serkd import config
from serkd.bench.output import add_json, write_numbers
from serkd.config.student import SHAPES
from serkd.corpora.audio import SAMPLE_RATE_HZ
from serkd.errors import InputError
from serkd.features.backbone import Backbone, Prefix, find_backbone
from serkd.features.logmel import compute_logmel
from serkd.features.store import Frames, stack_frames
from serkd.models.cost import time_forward
from serkd.models.listener import Listener, measure
from serkd.models.student import Student, build_student
from serkd.train.batches import pad_frames, plan_batches
from serkd.train.outputs import forward_pair, predict
from serkd.train.source import MemorySource

_CLASSES = 8
_BATCH = 16
_IN_A_ROW = 5  # utterances: what a model finds in a processor's caches is its own


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print Markdown; `--json FILE` writes everything."""
    parser = argparse.ArgumentParser(prog="python -m serkd.bench student", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of an utterance")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--utterances", type=int, default=64, help="of a training epoch")
    parser.add_argument("--teacher-layers", type=int, default=12)
    add_json(parser)
    options = parser.parse_args(arguments)
    if min(options.repeats, options.utterances, options.teacher_layers) < 1:
        raise InputError("--repeats, --utterances and --teacher-layers must be 1 or more")
    if not 0.1 <= options.seconds <= 30:
        raise InputError(f"--seconds must be from 0.1 to 30, got {options.seconds:g}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    costs = _measure_costs(options.seconds, options.repeats, options.teacher_layers)
    epochs = _measure_epochs(options.utterances, options.seconds, options.repeats)
    print(_costs_table(costs, options.seconds))
    print(_epochs_table(epochs, options.utterances, options.seconds))
    write_numbers(options.json, {"costs": costs, **epochs})


def _make_waveform(seconds: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE_HZ), np.float32)
    return 0.1 * noise


def _measure_costs(
    seconds: float, repeats: int, teacher_layers: int
) -> dict[str, dict[str, float]]:
    """Parameters, MACs and seconds of the teacher and of each student, by name."""
    with TemporaryDirectory(prefix="serkd-bench-") as folder:
        backbone = _save_teacher(Path(folder), teacher_layers)
        teacher = Prefix(backbone, teacher_layers)
        students = {
            f"{family} {size}": Listener(
                config.Student.model_validate({"family": family, "size": size}), backbone, _CLASSES
            )
            for family, sizes in SHAPES.items()
            for size in sizes
        }
    waveform = _make_waveform(seconds, 0)
    models = {"HuBERT-base's shape": teacher, **students}
    costs = {name: measure(model, waveform, 1) for name, model in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(-(-repeats // _IN_A_ROW)):
        for name, model in models.items():
            taken[name].append(time_forward(partial(model, waveform), _IN_A_ROW))
    return {name: {**cost, "seconds": median(taken[name])} for name, cost in costs.items()}


def _save_teacher(folder: Path, layers: int) -> Backbone:
    import transformers

    shape = transformers.HubertConfig(num_hidden_layers=layers)
    transformers.HubertModel(shape).save_pretrained(folder)
    return find_backbone(str(folder))


def _costs_table(costs: Mapping[str, Mapping[str, float]], seconds: float) -> str:
    slowest = next(iter(costs.values()))["seconds"]
    rows = [
        f"| {name} | {one['parameters'] / 1e6:.2f} | {one['macs'] / 1e6:.0f} | "
        f"{1e3 * one['seconds']:.1f} | {slowest / one['seconds']:.0f} | "
        f"{one['seconds'] / seconds:.4f} |"
        for name, one in costs.items()
    ]
    head = f"| {seconds:g} s, one thread | M parameters | M MACs | ms | times as fast | RTF |"
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|", *rows, ""])


def _measure_epochs(count: int, seconds: float, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of training on, and of evaluating, `count` utterances, of each way."""
    lengths = np.random.default_rng(0).uniform(0.6, 1.4, count) * seconds
    waveforms = [_make_waveform(length, i) for i, length in enumerate(lengths)]
    settings = config.Student()
    student = build_student(settings, _CLASSES, settings.logmel.num_mels)
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, _CLASSES, count))
    stored = [_compute(waveform, settings).astype(np.float16) for waveform in waveforms]
    frames = stack_frames([str(i) for i in range(count)], stored)
    source, index, device = MemorySource(frames), np.arange(count), torch.device("cpu")
    student.train()
    training = _take_turns(
        lambda: _train_stored(student, frames, labels),
        lambda: _train_plainly(student, waveforms, labels, settings),
        repeats,
    )
    student.eval()
    evaluation = _take_turns(
        lambda: predict(forward_pair(student), source, index, device),
        lambda: _evaluate_plainly(student, waveforms, settings),
        repeats,
    )
    return {"training": training, "evaluation": evaluation}


def _take_turns(
    stored: Callable[[], object], plain: Callable[[], object], repeats: int
) -> dict[str, float]:
    """The median seconds of both."""
    ways = {"stored log-mel, whole batches": stored, "plain loop": plain}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:  # the first one warms up
                found[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in found.items()}


def _compute(waveform: np.ndarray, settings: config.Student) -> np.ndarray:
    return compute_logmel(waveform, settings.logmel.num_mels, settings.logmel.frame_rate_hz)


def _learn(student: Student, logmel: Tensor, mask: Tensor, labels: Tensor, share: float) -> None:
    (share * F.cross_entropy(student(logmel, mask).logits, labels)).backward()


def _train_stored(student: Student, frames: Frames, labels: Tensor) -> None:
    """As serkd trains: batches of similar length, padded without a loop over their frames."""
    for batch in plan_batches(frames.lengths, np.arange(len(frames)), _BATCH, (0,)):
        student.zero_grad()
        _learn(student, *pad_frames(frames, batch), labels[batch], 1.0)


def _train_plainly(
    student: Student, waveforms: Sequence[np.ndarray], labels: Tensor, settings: config.Student
) -> None:
    """One utterance after the other; gradients of as many are summed as a batch has."""
    for start in range(0, len(waveforms), _BATCH):
        student.zero_grad()
        for i in range(start, min(start + _BATCH, len(waveforms))):
            _learn(student, *_read(waveforms[i], settings), labels[i : i + 1], 1 / _BATCH)


@torch.inference_mode()
def _evaluate_plainly(
    student: Student, waveforms: Sequence[np.ndarray], settings: config.Student
) -> None:
    for waveform in waveforms:
        student(*_read(waveform, settings))


def _read(waveform: np.ndarray, settings: config.Student) -> tuple[Tensor, Tensor]:
    """Log-mel (1, F, N) and its mask (1, F)."""
    logmel = torch.from_numpy(_compute(waveform, settings))[None]
    return logmel, torch.ones(logmel.shape[:2], dtype=torch.bool)


def _epochs_table(epochs: Mapping[str, Mapping[str, float]], count: int, length: float) -> str:
    rows = [
        f"| {what}, {way} | {seconds:.2f} | {ways['plain loop'] / seconds:.1f} |"
        for what, ways in epochs.items()
        for way, seconds in ways.items()
    ]
    head = f"| {count} x {length:g} s, one thread | s | times as fast |"
    return "\n".join([head, "|---|---:|---:|", *rows])
