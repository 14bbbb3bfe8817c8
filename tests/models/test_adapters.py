"""Low-rank adapters: what is trained, what is merged, for every family."""

import copy
from typing import Literal

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from serkd.config import Lora
from serkd.features.backbone import Backbone, Suffix, find_backbone
from serkd.models.adapters import merge_adapters
from serkd.models.teacher import EmotionTeacher
from serkd.models.trunk import Trunk

Targets = Literal["attention", "feed_forward", "all"]
LORA = Lora(rank=3, alpha=5.0, targets="all")
NUM_ADAPTED = {"attention": 4, "feed_forward": 2, "all": 6}


def _adapted(backbone: Backbone, frozen: int = 1, lora: Lora = LORA) -> Suffix:
    """With adapters that do something, as after training."""
    trunk = Trunk(backbone, frozen, lora=lora)
    suffix = trunk.build_suffix()
    torch.manual_seed(0)
    trunk.prepare(suffix)
    with torch.no_grad():
        for name, parameter in suffix.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return suffix


def _batch(backbone: Backbone) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([12, 7, 9])
    hidden = torch.randn(3, 12, backbone.dim, generator=torch.Generator().manual_seed(1))
    return hidden, torch.arange(12) < lengths[:, None]


def _gap(ours: list[Tensor], theirs: list[Tensor], mask: Tensor) -> float:
    return max(float((a - b)[mask].abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_merged_suffix_computes_what_the_adapted_one_does(
    family_backbone: Backbone, frozen: int
) -> None:
    adapted = _adapted(family_backbone, frozen).eval()
    merged = Suffix(family_backbone, frozen).eval()
    before = merged.state_dict()
    batch = _batch(family_backbone)
    with torch.no_grad():
        plain = merged(*batch)
        merged.load_state_dict(merge_adapters(adapted.state_dict(), LORA.alpha))
        assert list(merged.state_dict()) == list(before)
        assert _gap(merged(*batch), adapted(*batch), batch[1]) < 1e-5
        assert _gap(merged(*batch), plain, batch[1]) > 1e-2  # or nothing would be shown


def test_merging_is_peft_s_own_and_the_paper_s(family_backbone: Backbone) -> None:
    adapted = _adapted(family_backbone)
    weights = adapted.state_dict()
    merged = merge_adapters(weights, LORA.alpha)
    layers = {n: m for n, m in adapted.named_modules() if isinstance(m, LoraLayer)}
    assert len(layers) == 6 * (family_backbone.num_layers - 1)
    for name, layer in layers.items():
        base, down, up = (
            weights[f"{name}.{part}.weight"].double().numpy()
            for part in ("base_layer", "lora_A.default", "lora_B.default")
        )
        assert down.shape[0] == up.shape[1] == LORA.rank
        expected = base + 5.0 / 3.0 * np.einsum("or,ri->oi", up, down)
        found = merged[f"{name}.weight"]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
        layer.merge()
        torch.testing.assert_close(found, layer.weight, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("targets", NUM_ADAPTED)
def test_only_adapters_of_the_targets_learn_and_all_of_them_do(
    family_backbone: Backbone, targets: Targets
) -> None:
    lora = Lora(rank=2, targets=targets)
    suffix = _adapted(family_backbone, lora=lora).train()
    trained = {n for n, p in suffix.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * NUM_ADAPTED[targets] * (family_backbone.num_layers - 1)
    suffix(*_batch(family_backbone))[-1].square().sum().backward()
    for name, parameter in suffix.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert learns == (name in trained), name


def test_adapters_change_nothing_until_they_are_trained(family_backbone: Backbone) -> None:
    trunk = Trunk(family_backbone, 1, lora=Lora(rank=4, targets="all"))
    suffix, batch = trunk.build_suffix().eval(), _batch(family_backbone)
    with torch.no_grad():
        expected = suffix(*batch)
        trunk.prepare(suffix)
        assert _gap(suffix.eval()(*batch), expected, batch[1]) < 1e-6


def test_adapters_follow_the_seed_and_have_dropout() -> None:
    backbone = find_backbone("tiny-hubert")
    states = []
    for seed in (0, 0, 1):
        trunk = Trunk(backbone, 0, lora=Lora(rank=2, dropout=0.4))
        suffix = trunk.build_suffix()
        torch.manual_seed(seed)
        trunk.prepare(suffix)
        states.append(suffix.state_dict())
    key = "body.layers.0.attention.q_proj.lora_A.default.weight"
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])
    assert any(isinstance(m, torch.nn.Dropout) and m.p == 0.4 for m in suffix.modules())


def test_a_merged_teacher_with_a_mixture_of_layers_is_a_plain_one() -> None:
    backbone = find_backbone("tiny-hubert")

    def build(suffix: Suffix) -> EmotionTeacher:
        return EmotionTeacher(
            suffix, backbone.dim, 4, pooling="mean", dropout=0.1, scale=15.0, layer_mix=True
        ).eval()

    adapted, plain = build(_adapted(backbone)), build(Suffix(backbone, 1))
    plain.load_state_dict(merge_adapters(copy.deepcopy(adapted.state_dict()), LORA.alpha))
    hidden, mask = _batch(backbone)
    with torch.no_grad():
        gap = plain(hidden, mask).logits - adapted(hidden, mask).logits
    assert float(gap.abs().max()) < 1e-5


def test_weights_without_adapters_are_merged_to_themselves() -> None:
    weights = EmotionTeacher(
        Suffix(find_backbone("tiny-hubert"), 1), 64, 4, pooling="mean", dropout=0.0, scale=None
    ).state_dict()
    merged = merge_adapters(weights, 16.0)
    assert list(merged) == list(weights)
    assert all(merged[name] is weights[name] for name in weights)
