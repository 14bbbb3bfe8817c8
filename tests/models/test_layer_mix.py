"""A learned mixture of layers: its weights, who reads it, and that without it nothing changes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from serkd.features.backbone import Backbone, Suffix, find_backbone
from serkd.models.heads import LayerMix
from serkd.models.teacher import EmotionTeacher, MultiTaskExtractor, OnSuffix, UnitTeacher

Build = Callable[[Suffix, bool | str], OnSuffix]


def _extractor(suffix: Suffix, layer_mix: bool | str) -> OnSuffix:
    return MultiTaskExtractor(suffix, 64, 4, "attention", layer_mix=layer_mix)


def _units(suffix: Suffix, layer_mix: bool | str) -> OnSuffix:
    return UnitTeacher(suffix, 64, [4, 8], layer_mix=layer_mix)


def _teacher(suffix: Suffix, layer_mix: bool | str) -> OnSuffix:
    return EmotionTeacher(
        suffix, 64, 4, pooling="mean", dropout=0.0, scale=15.0, layer_mix=layer_mix
    )


every_model = pytest.mark.parametrize("build", [_extractor, _units, _teacher])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return find_backbone("tiny-hubert")


def _batch() -> tuple[Tensor, Tensor]:
    hidden = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0))
    return hidden, torch.arange(9) < torch.tensor([[9], [5]])


def test_a_mixture_is_the_softmax_weighted_sum_of_its_layers() -> None:
    rng = np.random.default_rng(0)
    states, scores = rng.standard_normal((4, 2, 5, 3)), rng.standard_normal(4)
    mix = LayerMix(4)
    tensors = list(torch.from_numpy(states).float())
    torch.testing.assert_close(
        mix(tensors), torch.from_numpy(states.mean(axis=0)).float(), rtol=1e-5, atol=1e-6
    )
    with torch.no_grad():
        mix.scores.copy_(torch.from_numpy(scores))
    weights = np.exp(scores) / np.exp(scores).sum()
    expected = torch.from_numpy(np.einsum("l,lbfd->bfd", weights, states)).float()
    torch.testing.assert_close(mix(tensors), expected, rtol=1e-5, atol=1e-6)


@every_model
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_models_read_the_layers_that_the_suffix_has(
    backbone: Backbone, build: Build, frozen: int
) -> None:
    suffix = Suffix(backbone, frozen).eval()
    mixed, plain = build(suffix, True).eval(), build(suffix, False).eval()
    batch = _batch()
    with torch.no_grad():
        states = suffix(*batch)
        assert len(states) == backbone.num_layers + 1 - frozen
        expected = torch.stack(states).mean(dim=0)
        torch.testing.assert_close(mixed.frames(*batch), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(plain.frames(*batch), states[-1])
        # all weight on the last layer is no mixture
        assert mixed.mix is not None
        mixed.mix.scores[-1] = 100.0
        torch.testing.assert_close(mixed.frames(*batch), states[-1], rtol=1e-5, atol=1e-5)


@every_model
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_joined_layers_are_side_by_side_and_padding_does_not_reach_what_is_said(
    backbone: Backbone, build: Build, frozen: int
) -> None:
    suffix = Suffix(backbone, frozen).eval()
    joined = build(suffix, "concat").eval()
    hidden, mask = _batch()
    with torch.no_grad():
        states = suffix(hidden, mask)
        assert torch.equal(joined.frames(hidden, mask), torch.cat(states, dim=-1))
        assert joined.frame_dim == 64 * len(states)
        garbage = torch.where(mask[..., None], hidden, 100.0)
        for ours, clean in zip(
            _outputs(joined, garbage, mask), _outputs(joined, hidden, mask), strict=True
        ):
            if ours.ndim == 3:  # of frames: those behind the end mean nothing
                ours, clean = ours[mask], clean[mask]
            torch.testing.assert_close(ours, clean, rtol=1e-5, atol=1e-5)


@every_model
def test_without_a_mixture_a_model_has_the_parameters_that_it_had(
    backbone: Backbone, build: Build
) -> None:
    names = [list(build(Suffix(backbone, 1), is_on).state_dict()) for is_on in (False, True)]
    assert [name for name in names[1] if name != "mix.scores"] == names[0]
    assert len(names[1]) == len(names[0]) + 1


def _outputs(model: nn.Module, hidden: Tensor, mask: Tensor) -> list[Tensor]:
    found = model(hidden, mask, None) if isinstance(model, UnitTeacher) else model(hidden, mask)
    return list(found) if isinstance(found, tuple | list) else [found.logits]


@every_model
def test_what_heads_lose_reaches_the_mixture_and_every_layer(
    backbone: Backbone, build: Build
) -> None:
    model = build(Suffix(backbone, 0), True)
    assert model.mix is not None
    sum(out.square().sum() for out in _outputs(model, *_batch())).backward()  # type: ignore[union-attr]
    assert model.mix.scores.grad is not None
    assert bool((model.mix.scores.grad != 0).all())


@every_model
def test_padding_does_not_reach_a_mixture(backbone: Backbone, build: Build) -> None:
    model = build(Suffix(backbone, 0), True).eval()
    hidden, mask = _batch()
    garbage = torch.where(mask[..., None], hidden, 100.0)
    with torch.no_grad():
        for ours, clean in zip(
            _outputs(model, garbage, mask), _outputs(model, hidden, mask), strict=True
        ):
            torch.testing.assert_close(ours[:, :5], clean[:, :5], rtol=1e-5, atol=1e-5)
