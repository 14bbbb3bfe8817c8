"""A contract that all schedules keep: pure functions of progress, between and at their ends."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from serkd.config import Curriculum, Distill
from serkd.distill.curriculum import PACINGS, compute_alpha, compute_reversal, compute_share

PROGRESS = np.linspace(0.0, 1.0, 1001)


@dataclass(frozen=True)
class Schedule:
    """From `first` at 0 to `last` from `full_at` on, in at most `largest` at once."""

    value: Callable[[float], float]
    first: float
    last: float
    full_at: float
    largest: float = 0.0  # 0 = without a jump


def _share(pacing: str, full_at: float, start: float, num_jumps: int | None) -> Schedule:
    settings = Curriculum.model_validate(
        {"pacing": pacing, "start_share": start, "full_at": full_at, "num_jumps": num_jumps}
    )
    first = 1.0 if pacing == "none" else start
    # at a jump of n nothing rises by more than all there is
    largest = 1.0 - start if pacing == "step" or num_jumps else 0.0
    return Schedule(lambda t: compute_share(settings, t), first, 1.0, full_at, largest)


def _alpha(mode: str, full_at: float, start: float, end: float) -> Schedule:
    settings = Curriculum.model_validate(
        {
            "alpha_curriculum": mode,
            "alpha_start": start,
            "alpha_end": end,
            "alpha_full_at": full_at,
        }
    )
    distill = Distill(alpha=0.35)
    ends = (0.35, 0.35) if mode == "off" else (start, end)
    return Schedule(lambda t: compute_alpha(distill, settings, t), *ends, full_at)


def _reversal(full_at: float) -> Schedule:
    settings = Curriculum(temperature_full_at=full_at)
    return Schedule(lambda t: compute_reversal(settings, t), 0.0, -1.0, full_at)


FULL_AT = (0.1, 0.33, 1.0)
SCHEDULES = {
    **{
        f"{pacing}-{start}-{jumps}-{at}": _share(pacing, at, start, jumps)
        for pacing, at, start, jumps in itertools.product(
            PACINGS, FULL_AT, (0.05, 0.5, 1.0), (None, 1, 5)
        )
    },
    **{
        f"alpha-{mode}-{start}-{end}-{at}": _alpha(mode, at, start, end)
        for mode, at, (start, end) in itertools.product(
            ("off", "linear", "cosine"), FULL_AT, ((0.0, 1.0), (0.9, 0.2), (0.4, 0.4))
        )
    },
    **{f"lambda-{at}": _reversal(at) for at in FULL_AT},
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_go_from_end_to_end_one_way_and_stay_between(schedule: Schedule) -> None:
    values = np.array([schedule.value(t) for t in PROGRESS])
    is_full = np.greater_equal(PROGRESS, schedule.full_at)
    low, high = sorted((schedule.first, schedule.last))
    assert values[0] == pytest.approx(schedule.first, abs=1e-12)
    np.testing.assert_allclose(values[is_full], schedule.last, atol=1e-12)
    assert (values >= low - 1e-12).all()
    assert (values <= high + 1e-12).all()
    steps = np.diff(values) * (1 if schedule.last >= schedule.first else -1)
    assert (steps >= -1e-12).all()
    # steep at the very start: the root of 0.05² + t / 0.1
    smooth = 0.15 * (high - low) + 1e-12
    assert steps.max() <= max(schedule.largest + 1e-12, smooth)
    again = np.array([schedule.value(t) for t in PROGRESS[::-1]])[::-1]
    np.testing.assert_array_equal(again, values)  # whatever was asked before


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_without_jumps_are_continuous(schedule: Schedule) -> None:
    if schedule.largest == 0.0:
        for t in np.linspace(0.0, 1.0, 101):
            step = abs(schedule.value(min(1.0, t + 1e-9)) - schedule.value(t))
            assert step < 1e-6


def test_lambda_is_ctkds_formula() -> None:
    """-(1 - cos(pi·min(e, E)/E))/2 over epochs e, here E = 10 of 40."""
    settings = Curriculum(temperature_full_at=0.25)
    for epoch in (0, 1, 5, 9, 10, 11, 39):
        expected = -(1 - math.cos(math.pi * min(epoch, 10) / 10)) / 2
        assert compute_reversal(settings, epoch / 40) == pytest.approx(expected, abs=1e-12)
    assert compute_reversal(settings, 0.0) == 0.0
    assert compute_reversal(settings, 0.25) == -1.0


def test_exponential_pacing_in_jumps_is_the_papers() -> None:
    """min(1, c0·inc^⌊t/step⌋) with four steps to 1 (Hacohen & Weinshall, arXiv 1904.03626)."""
    settings = Curriculum(pacing="exponential", start_share=0.1, full_at=0.8, num_jumps=4)
    increase = 0.1 ** (-1 / 4)
    for iteration in range(100):
        expected = min(1.0, 0.1 * increase ** (iteration // 20))
        assert compute_share(settings, iteration / 100) == pytest.approx(expected, rel=1e-9)


def test_root_pacing_is_platanios_with_p_2_and_linear_with_p_1() -> None:
    for pacing, p in (("linear", 1), ("root", 2)):
        settings = Curriculum.model_validate({"pacing": pacing, "start_share": 0.2, "full_at": 0.6})
        for t in (0.0, 0.1, 0.3, 0.59, 0.9):
            expected = min(1.0, (t * (1 - 0.2**p) / 0.6 + 0.2**p) ** (1 / p))
            assert compute_share(settings, t) == pytest.approx(expected, rel=1e-12)


def test_an_end_of_alpha_that_is_not_given_is_that_of_distillation() -> None:
    distill = Distill(alpha=0.6)
    rising = Curriculum(alpha_curriculum="linear", alpha_start=0.0)
    falling = Curriculum(alpha_curriculum="linear", alpha_end=0.1)
    assert compute_alpha(distill, rising, 1.0) == pytest.approx(0.6)
    assert compute_alpha(distill, rising, 0.5) == pytest.approx(0.3)
    assert compute_alpha(distill, falling, 0.0) == pytest.approx(0.6)
    ignored = Curriculum(alpha_start=0.0, alpha_end=0.1)
    assert all(compute_alpha(distill, ignored, t) == 0.6 for t in (0.0, 0.3, 1.0))
