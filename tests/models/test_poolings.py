"""One contract for every pooling, and each one's own formula."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from serkd.models.heads import (
    POOLINGS,
    AttentionPooling,
    AttentiveStatistics,
    CosineClassifier,
    Pooling,
    Standardise,
)

DIM = 6
LENGTHS = (1, 4, 9, 12)


def _trained(build: type[Pooling] | None = None, name: str = "mean") -> Pooling:
    """A pooling whose attention has something to say: fresh ones weigh all frames alike."""
    torch.manual_seed(0)
    pooling = POOLINGS[name](DIM) if build is None else build(DIM)
    for parameter in pooling.parameters():
        nn.init.normal_(parameter)
    return pooling.eval()


def _batch(garbage: float = 0.0, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Frames whose padding holds `garbage`, with `extra` more frames of it, and validity."""
    generator = torch.Generator().manual_seed(1)
    total = max(LENGTHS) + extra
    frames = garbage * torch.randn(len(LENGTHS), total, DIM, generator=generator)
    for row, length in enumerate(LENGTHS):
        own = torch.Generator().manual_seed(10 + row)
        frames[row, :length] = torch.randn(length, DIM, generator=own)
    return frames, torch.arange(total)[None] < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_sees_valid_frames_only(name: str) -> None:
    pooling = _trained(name=name)
    expected = pooling(*_batch())
    assert expected.shape == (len(LENGTHS), pooling.out_dim)
    for extra in (0, 1, 6):
        torch.testing.assert_close(pooling(*_batch(1e3, extra)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_treats_every_utterance_as_if_it_were_alone(name: str) -> None:
    pooling, (frames, mask) = _trained(name=name), _batch()
    together = pooling(frames, mask)
    for row, length in enumerate(LENGTHS):
        alone = pooling(frames[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_has_finite_gradients_and_none_on_padding(name: str) -> None:
    """One frame has no deviation, and the root of a variance of 0 has no slope."""
    pooling, (frames, mask) = _trained(name=name), _batch()
    frames = frames.requires_grad_()
    (gradient,) = torch.autograd.grad(pooling(frames, mask).square().sum(), frames)
    assert torch.isfinite(gradient).all()
    assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))
    assert (gradient[mask].abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("name", POOLINGS)
def test_the_order_of_frames_does_not_matter_to_a_pooling(name: str) -> None:
    pooling, frames = _trained(name=name), torch.randn(1, 9, DIM)
    mask = torch.ones(1, 9, dtype=torch.bool)
    shuffled = frames[:, torch.randperm(9)]
    torch.testing.assert_close(pooling(shuffled, mask), pooling(frames, mask), atol=1e-5, rtol=0)


@pytest.mark.parametrize("build", [AttentionPooling, AttentiveStatistics])
def test_attention_sums_to_one_over_the_valid_frames(build: type[AttentionPooling]) -> None:
    pooling, (frames, mask) = _trained(build), _batch(1e3)
    assert isinstance(pooling, AttentionPooling)
    weights = pooling.weights(frames, mask).squeeze(-1)
    torch.testing.assert_close((weights * mask).sum(dim=1), torch.ones(len(LENGTHS)))
    assert torch.equal(weights[~mask], torch.zeros_like(weights[~mask]))


@pytest.mark.parametrize("build", [AttentionPooling, AttentiveStatistics])
def test_fresh_attention_is_the_plain_mean(build: type[AttentionPooling]) -> None:
    frames, mask = _batch()
    expected = POOLINGS["mean"](DIM)(frames, mask)
    torch.testing.assert_close(build(DIM)(frames, mask)[:, :DIM], expected)


def test_attentive_statistics_are_numpys_weighted_mean_and_deviation() -> None:
    pooling, (frames, mask) = _trained(AttentiveStatistics), _batch()
    assert isinstance(pooling, AttentionPooling)
    found = pooling(frames, mask).detach().numpy()
    weights = pooling.weights(frames, mask).detach().numpy()[..., 0]
    for row, length in enumerate(LENGTHS):
        values, share = frames[row, :length].numpy(), weights[row, :length]
        mean = np.average(values, axis=0, weights=share)
        deviation = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=share) + 1e-6)
        np.testing.assert_allclose(found[row], [*mean, *deviation], atol=1e-5)


def test_cosine_scores_are_torchs_and_ignore_lengths() -> None:
    torch.manual_seed(0)
    classifier, embeddings = CosineClassifier(5, 3), torch.randn(4, 5)
    expected = torch.cosine_similarity(embeddings[:, None], classifier.weight[None], dim=-1)
    torch.testing.assert_close(classifier(embeddings), expected)
    torch.testing.assert_close(classifier(100 * embeddings), expected)


def test_standardised_training_values_have_mean_zero_and_deviation_one() -> None:
    values = torch.randn(200, 4) * torch.tensor([1e-2, 1.0, 30.0, 1e3]) + 7
    standardise = Standardise(4)
    standardise.fit(values)
    found = standardise(values)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(dim=0), torch.ones(4), atol=1e-4, rtol=0)


def test_a_constant_dimension_stays_finite_when_standardised() -> None:
    standardise = Standardise(2)
    standardise.fit(torch.ones(10, 2))
    assert torch.isfinite(standardise(torch.ones(3, 2))).all()
