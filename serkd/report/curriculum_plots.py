"""A picture of what a curriculum will do, from its schedules alone."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from serkd.config import Curriculum, Experiment
from serkd.distill.curriculum import (
    compute_alpha,
    compute_epoch_share,
    compute_first_temperature,
    compute_reversal,
)

_POINTS = 501
_BLUE, _RED, _GREEN = "#1f6fb4", "#c2410c", "#15803d"


def draw_curriculum(experiment: Experiment, title: str = "") -> Figure:
    """Share of data, weight of KD, temperature, and lambda where that is learned, over epochs.

    No data is needed: what a temperature will learn within its bounds is not known beforehand.
    Where KD has none, or there is no KD, none is drawn.
    """
    panels = [_draw_share, _draw_alpha]
    if experiment.has_temperature:
        panels.append(_draw_temperature)
        if experiment.curriculum.temperature_curriculum != "off":
            panels.append(_draw_reversal)
    figure = Figure(figsize=(7.4, 0.8 + 2.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True)
    for draw, ax in zip(panels, axes, strict=True):
        draw(ax, experiment)
        ax.grid(alpha=0.3)
    axes[-1].set_xlabel("epochs done")
    axes[-1].set_xlim(0, experiment.student.fit.epochs)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(axes)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _draw_share(ax: Axes, experiment: Experiment) -> None:
    """A step an epoch: utterances are chosen when an epoch begins."""
    curriculum, epochs = experiment.curriculum, experiment.student.fit.epochs
    shares = [100 * compute_epoch_share(curriculum, epoch, epochs) for epoch in range(epochs)]
    ax.stairs(shares, np.arange(epochs + 1), baseline=None, color=_BLUE, linewidth=2)
    ax.set_ylim(0, 105)
    ax.set_ylabel("training data in use\n(% of each class)")
    about = f"{curriculum.pacing}, {_describe_order(curriculum)}"
    meta = experiment.meta
    quiz = f", without the quiz's {meta.quiz_share:.0%}" if meta.order != "off" else ""
    ax.set_title(f"data: {about if curriculum.is_paced else 'all'}{quiz}", fontsize=10)


def _describe_order(curriculum: Curriculum) -> str:
    if "random" in (curriculum.control, curriculum.scorer):
        return "in random order"
    first = "easy" if curriculum.control == "curriculum" else "hard"
    return f"{first} first, by {curriculum.scorer}"


def _draw_alpha(ax: Axes, experiment: Experiment) -> None:
    distill, curriculum = experiment.distill, experiment.curriculum
    _draw_line(ax, experiment, lambda t: compute_alpha(distill, curriculum, t), _GREEN)
    ax.set_ylim(-0.05, 1.05)
    ax.set_ylabel("alpha\n(weight of KD)")
    mode = curriculum.alpha_curriculum
    kind = {"kl": "KL", "dkd": "DKD", "mse_logits": "logits, no temperature"}[distill.kd]
    about = f"{'constant' if mode == 'off' else mode}, {kind}"
    ax.set_title(f"loss weight: {about if experiment.has_kd else 'no KD'}", fontsize=10)


def _draw_temperature(ax: Axes, experiment: Experiment) -> None:
    distill, curriculum = experiment.distill, experiment.curriculum
    mode, low = curriculum.temperature_curriculum, curriculum.temperature_start
    first, high = compute_first_temperature(distill, curriculum), low + curriculum.temperature_range
    ax.set_ylabel("temperature of KD")
    if mode == "off":
        _draw_line(ax, experiment, lambda t: first, _RED)
        ax.set_ylim(0, 1.3 * first)
        ax.set_title("temperature: constant", fontsize=10)
        return
    ax.axhspan(low, high, color=_RED, alpha=0.12, label=f"learned between {low:g} and {high:g}")
    ax.plot(0, first, "o", color=_RED, clip_on=False, label=f"at first {first:g}", zorder=3)
    ax.set_ylim(0, 1.08 * high)
    which = {"global": "one for all utterances", "instance": "one for each utterance"}[mode]
    ax.set_title(f"temperature: {which}", fontsize=10)
    ax.legend(loc="center right", fontsize=9)


def _draw_reversal(ax: Axes, experiment: Experiment) -> None:
    _draw_line(ax, experiment, lambda t: compute_reversal(experiment.curriculum, t), _RED)
    ax.set_ylim(-1.05, 0.05)
    ax.set_ylabel("lambda\n(factor of its gradient)")
    ax.set_title("the temperature learns to make KD harder", fontsize=10)


def _draw_line(
    ax: Axes, experiment: Experiment, schedule: Callable[[float], float], colour: str
) -> None:
    """A schedule, which may change with every step."""
    progress = np.linspace(0.0, 1.0, _POINTS)
    values = [schedule(t) for t in progress]
    ax.plot(progress * experiment.student.fit.epochs, values, color=colour, linewidth=2)
