"""Batch normalisation over valid frames against torch's over the same frames."""

import pytest
import torch
from torch import Tensor, nn

from serkd.models.norm import MaskedBatchNorm

DIM = 5


def _batch(garbage: float, extra: int = 0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([3, 11, 1, 6])
    mask = torch.arange(11 + extra)[None] < lengths[:, None]
    generator = torch.Generator().manual_seed(0)
    frames = torch.full((*mask.shape, DIM), garbage)
    frames[mask] = offset + 3 * torch.randn(int(lengths.sum()), DIM, generator=generator)
    return frames, mask


def _pair() -> tuple[MaskedBatchNorm, nn.BatchNorm1d]:
    torch.manual_seed(0)
    ours, reference = MaskedBatchNorm(DIM), nn.BatchNorm1d(DIM)
    for parameter, twin in zip(ours.parameters(), reference.parameters(), strict=True):
        nn.init.normal_(parameter)
        twin.data.copy_(parameter)
    return ours, reference


@pytest.mark.parametrize(("garbage", "extra"), [(0.0, 0), (1e4, 0), (1e4, 7)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_training_normalises_as_torch_does_over_the_valid_frames(
    garbage: float, extra: int, offset: float
) -> None:
    (ours, reference), (frames, mask) = _pair(), _batch(garbage, extra, offset)
    frames = frames.requires_grad_()
    valid = frames.detach()[mask].requires_grad_()
    found, expected = ours(frames, mask)[mask], reference(valid)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(ours.mean, reference.running_mean)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert frames.grad is not None
    assert torch.equal(frames.grad[~mask], torch.zeros_like(frames.grad[~mask]))
    torch.testing.assert_close(frames.grad[mask], valid.grad, atol=1e-3, rtol=1e-2)
    for parameter, twin in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, atol=1e-2, rtol=1e-3)


def test_evaluation_uses_what_training_has_seen_and_no_batch() -> None:
    ours, _ = _pair()
    for _ in range(200):  # long enough for the running statistics to settle
        ours(*_batch(1e4))
    ours.eval()
    frames, mask = _batch(1e4)
    normalised = (ours(frames, mask)[mask] - ours.bias) / ours.weight
    torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(DIM), atol=1e-3, rtol=0)
    alone = ours(frames[:1, :3], mask[:1, :3])
    torch.testing.assert_close(alone[0], ours(frames, mask)[0, :3])


def test_a_channel_that_never_moves_stays_finite() -> None:
    ours, _ = _pair()
    frames, mask = torch.full((2, 4, DIM), 1e3), torch.ones(2, 4, dtype=torch.bool)
    assert torch.isfinite(ours(frames, mask)).all()
