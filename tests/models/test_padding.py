"""Padding never counts: more frames of garbage after the end change no model's output."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serkd import config
from serkd.features.backbone import Backbone, Suffix, find_backbone
from serkd.models.heads import POOLINGS
from serkd.models.student import build_student, count_parameters
from serkd.models.teacher import EmotionTeacher, MultiTaskExtractor, UnitTeacher
from serkd.section import validate

Forward = Callable[[Tensor, Tensor], Sequence[Tensor]]
LENGTHS = ((1, 2, 7), (24, 25, 9), (40, 31, 40))  # odd and even, short and long, ties


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return find_backbone("tiny-hubert")


def _utterances(lengths: Sequence[int], dim: int) -> list[Tensor]:
    return [
        torch.randn(length, dim, generator=torch.Generator().manual_seed(length))
        for length in lengths
    ]


def _pad(utterances: Sequence[Tensor], extra: int) -> tuple[Tensor, Tensor]:
    """A batch whose padding is large garbage, `extra` frames longer than it need be."""
    total = max(map(len, utterances)) + extra
    generator = torch.Generator().manual_seed(total)
    frames = 100 * torch.randn(len(utterances), total, utterances[0].shape[1], generator=generator)
    mask = torch.zeros(frames.shape[:2], dtype=torch.bool)
    for row, utterance in enumerate(utterances):
        frames[row, : len(utterance)] = utterance
        mask[row, : len(utterance)] = True
    return frames, mask


def _shake(model: nn.Module) -> nn.Module:
    """Weights as after training: fresh attention weighs all alike and would hide a leak."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def _check(forward: Forward, dim: int, lengths: Sequence[int]) -> None:
    """Outputs per utterance are those of the utterance alone."""
    utterances = _utterances(lengths, dim)
    alone = [forward(u[None], torch.ones(1, len(u), dtype=torch.bool)) for u in utterances]
    for extra in (0, 1, 2, 13):
        outputs = forward(*_pad(utterances, extra))
        for row, expected in enumerate(alone):
            for found, reference in zip(outputs, expected, strict=True):
                assert found[row].abs().max() > 0
                torch.testing.assert_close(found[row], reference[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("frozen_layers", [0, 1, 2])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_extractor_ignores_padding(
    backbone: Backbone, pooling: str, frozen_layers: int, lengths: Sequence[int]
) -> None:
    suffix = Suffix(backbone, frozen_layers)
    model = _shake(MultiTaskExtractor(suffix, backbone.dim, 4, pooling))
    _check(model, backbone.dim, lengths)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_stage_1_ignores_padding_in_every_valid_frame(
    backbone: Backbone, lengths: Sequence[int]
) -> None:
    model = _shake(UnitTeacher(Suffix(backbone, 0), backbone.dim, [4, 16]))
    shortest = min(lengths)

    def forward(frames: Tensor, mask: Tensor) -> list[Tensor]:
        # the model's outputs are per frame: compare those that every utterance has
        return [logits[:, :shortest] for logits in model(frames, mask, None)]

    _check(forward, backbone.dim, lengths)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("scale", [15.0, None])
def test_stage_2_ignores_padding(
    backbone: Backbone, pooling: str, scale: float | None, lengths: Sequence[int]
) -> None:
    suffix = Suffix(backbone, 1)
    model = _shake(
        EmotionTeacher(suffix, backbone.dim, 4, pooling=pooling, dropout=0.3, scale=scale)
    )

    def forward(frames: Tensor, mask: Tensor) -> list[Tensor]:
        output = model(frames, mask)
        return [output.logits, output.embedding]

    _check(forward, backbone.dim, lengths)


FAMILIES = ("conv", "token", "conv_token")
INPUTS: dict[str, dict[str, Any]] = {
    "logmel 50 Hz": {"logmel": {"frame_rate_hz": 50}},
    "logmel 100 Hz": {"logmel": {"frame_rate_hz": 100}},
    "logmel, frames": {"stem": "frames", "kernel_frames": 9, "reduction": 2},
    "logmel, deltas": {"deltas": True, "token_pooling": "attention", "instance_norm": False},
    "hidden": {"input": "hidden", "reduction": 1},
    "hidden, deltas": {"input": "hidden", "deltas": True, "channel_embedding": True},
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("num_frames", [8, 30])
@pytest.mark.parametrize("length", ["crop", "resample", "window"])
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_students_ignore_padding_and_whom_they_are_batched_with(
    family: str, given: str, length: str, num_frames: int, lengths: Sequence[int]
) -> None:
    """Odd lengths meet every stride; series are cut at 8 frames and padded up to 30."""
    shape = {"width": 16, "depth": 3, "num_frames": num_frames, "dropout": 0.3}
    settings = validate(
        config.Student, {"family": family, "length": length, **shape, **INPUTS[given]}, "a test"
    )
    model = _shake(build_student(settings, 4, num_channels=20))

    def forward(frames: Tensor, mask: Tensor) -> list[Tensor]:
        output = model(frames, mask)
        return [output.logits, output.embedding, output.projection]

    _check(forward, 20, lengths)


@pytest.mark.parametrize(("size", "millions"), [("nano", 0.4), ("small", 1.6), ("base", 3.0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_what_they_are_called(family: str, size: str, millions: float) -> None:
    settings = validate(config.Student, {"family": family, "size": size}, "a test")
    num_parameters = count_parameters(build_student(settings, 8, num_channels=80))
    assert num_parameters == pytest.approx(1e6 * millions, rel=0.05)


def test_span_masks_hide_what_they_cover(backbone: Backbone) -> None:
    """What lies under a mask must not reach any output, or stage 1 could copy its answer."""
    model = _shake(UnitTeacher(Suffix(backbone, 0), backbone.dim, [4]))
    frames = torch.randn(2, 12, backbone.dim)
    mask, masked = torch.ones(2, 12, dtype=torch.bool), torch.zeros(2, 12, dtype=torch.bool)
    masked[:, 3:7] = True
    changed = torch.where(masked[..., None], torch.randn_like(frames), frames)
    torch.testing.assert_close(model(changed, mask, masked)[0], model(frames, mask, masked)[0])
    assert not torch.allclose(model(changed, mask, None)[0], model(frames, mask, None)[0])
