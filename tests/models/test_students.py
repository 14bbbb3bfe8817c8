"""Lengths, deltas and tokens of students, against references written another way."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from serkd import config
from serkd.models.student import build_student
from serkd.models.students.conv import ConvEncoder
from serkd.models.students.conv_token import ConvTokenEncoder
from serkd.models.students.deltas import append_deltas
from serkd.models.students.lengths import crop_frames, resample_frames, window_frames
from serkd.section import validate


def _pad(utterances: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """A batch with garbage behind the utterances."""
    frames = torch.full((len(utterances), 3 + max(map(len, utterances)), 2), 1e3)
    mask = torch.zeros(frames.shape[:2], dtype=torch.bool)
    for row, utterance in enumerate(utterances):
        frames[row, : len(utterance)] = torch.from_numpy(utterance)
        mask[row, : len(utterance)] = True
    return frames, mask


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, 2)).astype(np.float32) for n in (1, 2, 7, 10, 11, 23, 40)]


def test_resampling_is_numpys_interpolation(utterances: list[np.ndarray]) -> None:
    series, is_own = resample_frames(*_pad(utterances), 10)
    assert bool(is_own.all())
    for found, utterance in zip(series[:, 0].numpy(), utterances, strict=True):
        places = np.linspace(0, len(utterance) - 1, 10)
        for channel in range(2):
            expected = np.interp(places, np.arange(len(utterance)), utterance[:, channel])
            np.testing.assert_allclose(found[:, channel], expected, atol=1e-5)


def test_cropping_keeps_the_start_and_pads_with_zeros(utterances: list[np.ndarray]) -> None:
    series, _ = crop_frames(*_pad(utterances), 10)
    for found, utterance in zip(series[:, 0].numpy(), utterances, strict=True):
        kept = min(10, len(utterance))
        np.testing.assert_array_equal(found[:kept], utterance[:10])
        assert not found[kept:].any()


def test_windows_are_stretches_that_cover_the_utterance(utterances: list[np.ndarray]) -> None:
    windows, is_own = window_frames(*_pad(utterances), 10)
    for some, own, utterance in zip(windows.numpy(), is_own.numpy(), utterances, strict=True):
        starts = []
        for window in some[own]:
            kept = min(10, len(utterance))
            places = range(len(utterance) - kept + 1)
            starts += [s for s in places if np.array_equal(window[:kept], utterance[s : s + kept])]
            assert not window[kept:].any()
        assert len(starts) == own.sum() == 1 + -(-max(0, len(utterance) - 10) // 5)
        assert (starts[0], starts[-1] + 10) == (0, max(10, len(utterance)))
        assert max(np.diff(starts), default=0) <= 5  # they overlap by half or more


def _slope(series: np.ndarray, t: int) -> np.ndarray:
    at = [series[min(max(t + n, 0), len(series) - 1)] for n in (-2, -1, 1, 2)]
    return (2 * (at[3] - at[0]) + (at[2] - at[1])) / 10


def test_deltas_are_the_regression_of_the_htk_book(utterances: list[np.ndarray]) -> None:
    batch = append_deltas(*_pad(utterances)).numpy()
    for found, utterance in zip(batch, utterances, strict=True):
        first = np.array([_slope(utterance, t) for t in range(len(utterance))])
        second = np.array([_slope(first, t) for t in range(len(utterance))])
        expected = np.concatenate([utterance, first, second], axis=1)
        np.testing.assert_allclose(found[: len(utterance)], expected, atol=1e-5)


@pytest.mark.parametrize("length", ["crop", "resample", "window"])
def test_a_new_conv_token_student_is_the_conv_student(length: str) -> None:
    """Whatever tokens there are, they begin without a say, and with a way to get one."""
    same = {"width": 16, "depth": 2, "num_frames": 8, "length": length}
    settings = validate(config.Student, {"family": "conv_token", **same}, "a test")
    model, plain = ConvTokenEncoder(settings, 20).eval(), ConvEncoder(settings, 20).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    frames, mask = torch.randn(3, 37, 20), torch.arange(37)[None] < torch.tensor([[37], [9], [30]])
    found = model(frames, mask)
    torch.testing.assert_close(found, plain(frames, mask), atol=1e-6, rtol=1e-6)
    found.square().sum().backward()
    assert model.correct.weight.grad is not None
    assert float(model.correct.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("has_norm", [True, False])
def test_variate_tokens_hear_a_channels_level_and_range_only_without_the_norm(
    has_norm: bool,
) -> None:
    given = {"family": "token", "width": 16, "depth": 2, "instance_norm": has_norm}
    model = build_student(validate(config.Student, given, "a test"), 4, num_channels=20).eval()
    frames, mask = torch.randn(3, 25, 20), torch.ones(3, 25, dtype=torch.bool)
    logits = [model(each, mask).logits for each in (frames, 1.0 + 2.0 * frames)]
    assert torch.allclose(*logits, atol=1e-3) is has_norm


@pytest.mark.parametrize("has_embedding", [False, True])
def test_variate_tokens_know_their_channel_only_with_an_embedding(has_embedding: bool) -> None:
    """Without one the tokens are a set: exchanging the channels changes nothing."""
    shape = {"family": "token", "width": 16, "depth": 2, "num_frames": 30, "logmel": {}}
    given = {**shape, "channel_embedding": has_embedding}
    torch.manual_seed(0)
    model = build_student(validate(config.Student, given, "a test"), 4, num_channels=20).eval()
    frames, mask = torch.randn(3, 25, 20), torch.ones(3, 25, dtype=torch.bool)
    order = torch.randperm(20)
    before, after = model(frames, mask).logits, model(frames[..., order], mask).logits
    assert torch.allclose(before, after, atol=1e-5) is not has_embedding


@pytest.mark.parametrize("num_frames", [8, 9, 10, 11, 13, 30])
def test_tokens_on_convolutions_hear_a_series_to_its_last_step(num_frames: int) -> None:
    given = {"family": "conv_token", "width": 16, "depth": 1, "num_frames": num_frames}
    settings = validate(config.Student, {**given, "reduction": 1, "stem": "frames"}, "a test")
    model = ConvTokenEncoder(settings, 20).eval()
    hidden, mask = torch.randn(2, 40, 16), torch.ones(2, 40, dtype=torch.bool)
    before = model._read_courses(hidden, mask)
    # what changes places has the same mean and deviation, which the series are normalised by
    swapped, beyond = list(range(40)), list(range(40))
    swapped[num_frames - 1 : num_frames + 1] = [num_frames, num_frames - 1]
    beyond[num_frames:] = reversed(beyond[num_frames:])
    heard = model._read_courses(hidden[:, swapped], mask)
    assert not torch.allclose(heard, before, atol=1e-4)
    torch.testing.assert_close(model._read_courses(hidden[:, beyond], mask), before)


@pytest.mark.parametrize("rate", [50, 100])
def test_variate_tokens_hear_six_seconds_unless_told_otherwise(rate: int) -> None:
    given = {"family": "token", "width": 16, "depth": 1, "logmel": {"frame_rate_hz": rate}}
    model = build_student(validate(config.Student, given, "a test"), 4, num_channels=20).eval()
    frames, mask = torch.randn(1, 8 * rate, 20), torch.ones(1, 8 * rate, dtype=torch.bool)
    heard = []
    for second in range(8):
        changed = frames.clone()
        stretch = slice(second * rate, (second + 1) * rate)
        changed[:, stretch] = changed[:, stretch].flip(1)
        heard.append(not torch.allclose(model(changed, mask).logits, model(frames, mask).logits))
    assert heard == [*[True] * 6, False, False]


def test_the_same_words_said_slowly_differ_only_by_the_token_of_the_duration() -> None:
    """Resampling alone would hide how long an utterance is."""
    given = {"family": "token", "length": "resample", "num_frames": 9, "width": 16, "depth": 1}
    # whose statistics a slower version changes a little
    given["instance_norm"] = False
    model = build_student(validate(config.Student, given, "a test"), 4, num_channels=20).eval()
    short = torch.randn(1, 9, 20)
    long = torch.nn.functional.interpolate(
        short.transpose(1, 2), 17, mode="linear", align_corners=True
    ).transpose(1, 2)

    def read() -> list[Tensor]:
        return [model(f, torch.ones(f.shape[:2], dtype=torch.bool)).logits for f in (short, long)]

    assert not torch.allclose(*read(), atol=1e-3)
    torch.nn.init.zeros_(model.encoder.duration.weight)
    torch.testing.assert_close(*read(), atol=1e-5, rtol=1e-5)
