"""Multiplications of models, counted by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from serkd import config
from serkd.features.backbone import Prefix, find_backbone
from serkd.models.cost import count_macs
from serkd.models.listener import Listener, count_inside, measure_student
from serkd.models.student import count_parameters
from serkd.section import validate


def test_macs_of_an_encoder_layer_are_those_on_paper() -> None:
    """Fused paths, which evaluation takes, would hide nearly all of them."""
    frames, width, inner = 7, 12, 20
    layer = nn.TransformerEncoderLayer(width, 3, inner, batch_first=True).eval()
    projections, attention = 4 * frames * width**2, 2 * frames**2 * width
    expected = projections + attention + 2 * frames * width * inner
    with torch.inference_mode():
        layer(torch.randn(1, frames, width))
    assert count_macs(lambda: layer(torch.randn(1, frames, width))) == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_macs_of_convolutions_are_those_on_paper() -> None:
    plain, strided = nn.Conv1d(3, 5, 7), nn.Conv2d(2, 4, 3, (1, 2), padding=1)
    assert count_macs(lambda: plain(torch.randn(1, 3, 20))) == 14 * 5 * 3 * 7
    assert count_macs(lambda: strided(torch.randn(1, 2, 10, 8))) == 10 * 4 * 4 * 2 * 9


@pytest.mark.parametrize("family", ["conv", "token", "conv_token"])
@pytest.mark.parametrize("given", [{}, {"input": "hidden", "hidden": {"layer": 2}}])
def test_a_students_cost_counts_the_backbone_that_it_hears_through(
    family: str, given: dict[str, Any]
) -> None:
    backbone = find_backbone("tiny-hubert")
    settings = validate(config.Student, {"family": family, "width": 16, **given}, "a test")
    found = measure_student(settings, backbone, 4, repeats=1)
    listener = Listener(settings, backbone, 4)
    alone = count_parameters(listener.student)
    prefix = Prefix(backbone, 2)
    waveform = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    inside, inside_macs = 0, 0
    if given:
        inside, inside_macs = count_parameters(prefix), count_macs(lambda: prefix(waveform))
        assert inside_macs > 0
    assert found["parameters"] == alone + inside == alone + count_inside(settings, backbone)
    num_frames = 149 if given else 300
    frames = torch.randn(1, num_frames, backbone.dim if given else 80)
    mask = torch.ones(1, num_frames, dtype=torch.bool)
    own = count_macs(lambda: listener.student(frames, mask))
    spectra = 300 * 80 * 201 if not given else 0  # the mel filters are a matrix product
    assert found["macs"] == own + inside_macs + spectra
    assert found["real_time_factor"] == pytest.approx(found["latency_s"] / 3) and own > 0
