"""Memory, speed and precision of training passes: the same gradients, or nearly the same logits."""

import shutil
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from serkd.config import Lora
from serkd.features import blocks
from serkd.features.backbone import Backbone, find_backbone
from serkd.models.linear import speed_up_training
from serkd.models.teacher import EmotionTeacher
from serkd.models.trunk import Trunk

LENGTHS = ([12, 7, 9], [10, 10, 10])  # padded, and not


def _batch(dim: int, lengths: list[int]) -> tuple[Tensor, Tensor]:
    longest = max(lengths)
    generator = torch.Generator().manual_seed(longest)
    hidden = torch.randn(len(lengths), longest, dim, generator=generator)
    return hidden, torch.arange(longest) < torch.tensor(lengths)[:, None]


def _build(trunk: Trunk) -> EmotionTeacher:
    suffix = trunk.build_suffix()
    speed_up_training(suffix, "cpu")
    torch.manual_seed(0)
    trunk.prepare(suffix)
    mix = trunk.layer_mix
    return EmotionTeacher(
        suffix, trunk.dim, 4, pooling="attention", dropout=0.2, scale=15.0, layer_mix=mix
    )


def _learn(trunk: Trunk, lengths: list[int]) -> Mapping[str, Tensor]:
    """Of a training pass with dropout: the loss, all gradients, and what is drawn after it."""
    model = _build(trunk).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    hidden, mask = _batch(trunk.dim, lengths)
    torch.manual_seed(5)
    logits = model(hidden, mask).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(lengths)))
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {**gradients, "the loss": loss.detach(), "drawn next": torch.rand(3)}


def _assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], gap: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=gap, rtol=gap, msg=name)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("rank", [0, 2])
def test_checkpointed_layers_have_the_same_gradients(
    family_backbone: Backbone, rank: int, lengths: list[int]
) -> None:
    trunk = Trunk(family_backbone, 0, layer_mix=True, lora=Lora(rank=rank, dropout=0.2))
    expected = _learn(trunk, lengths)
    _assert_close(_learn(replace(trunk, checkpoint_layers=True), lengths), expected, 1e-6)
    assert len(expected) > 10


def test_dropout_would_be_seen_in_the_gradients() -> None:
    # or the tests of equal gradients would not show that the same random numbers are drawn
    trunk = Trunk(find_backbone("tiny-hubert"), 0)
    first, second = _learn(trunk, LENGTHS[0]), _learn(trunk, LENGTHS[0])
    _assert_close(second, first, 0.0)
    model = _build(trunk).train()
    hidden, mask = _batch(trunk.dim, LENGTHS[0])
    assert not torch.equal(model(hidden, mask).logits, model(hidden, mask).logits)


def test_layers_are_run_again_only_where_gradients_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trunk = Trunk(find_backbone("tiny-hubert"), 0, checkpoint_layers=True)
    calls: list[object] = []
    call = blocks._call

    def watch(*args: object) -> object:
        calls.append(args[0])
        return call(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(blocks, "_call", watch)
    model, batch = _build(trunk), _batch(trunk.dim, LENGTHS[0])
    for is_training, with_gradients, expected in (
        (True, True, 4),
        (True, False, 2),
        (False, True, 2),
    ):
        calls.clear()
        with torch.set_grad_enabled(with_gradients):
            total = model.train(is_training)(*batch).logits.sum()
        if with_gradients:
            total.backward()
        assert len(calls) == expected


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="no C++ compiler")
@pytest.mark.parametrize("checkpoint", [False, True])
def test_compiled_layers_have_the_same_losses_and_gradients(checkpoint: bool) -> None:
    plain = Trunk(find_backbone("tiny-hubert"), 0, lora=Lora(rank=2))
    compiled = replace(plain, compile_layers=True, checkpoint_layers=checkpoint)
    assert list(_build(compiled).state_dict()) == list(_build(plain).state_dict())
    for lengths in (*LENGTHS, [31, 4, 17, 30]):  # of any shape
        _assert_close(_learn(compiled, lengths), _learn(plain, lengths), 1e-4)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer_mix", [False, True])
def test_half_precision_logits_are_those_of_float32_within_five_per_cent(
    family_backbone: Backbone, layer_mix: bool, dtype: torch.dtype, lengths: list[int]
) -> None:
    model = _build(Trunk(family_backbone, 0, layer_mix=layer_mix)).eval()
    hidden, mask = _batch(family_backbone.dim, lengths)
    with torch.no_grad():
        expected = model(hidden, mask).logits
        with torch.autocast("cpu", dtype):
            found = model(hidden, mask).logits
            # what lies behind an utterance's end is not seen in half precision either
            garbage = torch.where(mask[..., None], hidden, 50.0)
            torch.testing.assert_close(model(garbage, mask).logits, found, rtol=0.02, atol=0.02)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)  # it was on
    assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_are_finite_and_near_those_of_float32(
    family_backbone: Backbone, dtype: torch.dtype
) -> None:
    trunk = Trunk(family_backbone, 0, layer_mix=True, checkpoint_layers=True)
    models = [_build(trunk).train() for _ in range(2)]
    hidden, mask = _batch(trunk.dim, LENGTHS[0])
    flat: list[Tensor] = []
    for is_half, model in enumerate(models):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        with torch.autocast("cpu", dtype, enabled=bool(is_half)):
            logits = model(hidden, mask).logits
        torch.nn.functional.cross_entropy(logits, torch.arange(3)).backward()
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        flat.append(torch.cat(found))
    assert bool(flat[1].isfinite().all())
    assert float(torch.nn.functional.cosine_similarity(*flat, dim=0)) > 0.98
