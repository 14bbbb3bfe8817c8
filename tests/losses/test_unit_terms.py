"""Multi-scale cross-entropy on pseudo-labels against a loop over frames."""

import math

import pytest
import torch

from serkd.losses.units import multi_scale_cross_entropy

NUM_UNITS = (4, 16, 100)
ONES = dict.fromkeys(("a", "b", "c"), 1.0)


def _batch(seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(3, 7, k, generator=generator, dtype=torch.float64) * 2 for k in NUM_UNITS]
    units = [torch.randint(k, (3, 7), generator=generator) for k in NUM_UNITS]
    counted = torch.rand(3, 7, generator=generator) < 0.6
    return logits, units, counted


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.25)])
def test_each_scale_is_its_weight_times_the_mean_over_counted_frames_divided_by_log_k(
    weights: tuple[float, ...],
) -> None:
    logits, units, counted = _batch()
    terms = multi_scale_cross_entropy(logits, units, counted, dict(zip(ONES, weights, strict=True)))
    for scale, (name, num_units) in enumerate(zip(ONES, NUM_UNITS, strict=True)):
        losses = [
            -float(logits[scale][b, f].log_softmax(-1)[units[scale][b, f]])
            for b in range(3)
            for f in range(7)
            if counted[b, f]
        ]
        term = terms[f"units_{name}"]
        found = float(term.weight * term.total / term.count)
        expected = weights[scale] * sum(losses) / len(losses) / math.log(num_units)
        assert found == pytest.approx(expected, rel=1e-10)


def test_a_scale_at_chance_costs_one_whatever_its_number_of_units() -> None:
    logits, units, counted = _batch()
    terms = multi_scale_cross_entropy([torch.zeros_like(s) for s in logits], units, counted, ONES)
    for term in terms.values():
        assert float(term.weight * term.total / term.count) == pytest.approx(1.0, rel=1e-9)


def test_frames_that_are_not_counted_have_no_gradient() -> None:
    logits, units, counted = _batch()
    scores = [s.requires_grad_() for s in logits]
    terms = multi_scale_cross_entropy(scores, units, counted, ONES)
    torch.stack([term.total for term in terms.values()]).sum().backward()
    for score in scores:
        assert torch.equal(score.grad[~counted], torch.zeros_like(score.grad[~counted]))
        assert (score.grad[counted].abs().sum(dim=-1) > 0).all()
