"""The picture of a curriculum shows its schedules, without any data."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from serkd.cli import main
from serkd.config import Experiment
from serkd.distill.curriculum import compute_alpha, compute_epoch_share, compute_reversal
from serkd.recipe import build_experiment
from serkd.report.curriculum_plots import draw_curriculum

WHOLE = {
    "student.fit.epochs": 12,
    "curriculum.pacing": "root",
    "curriculum.full_at": 1.0,
    "curriculum.alpha_curriculum": "cosine",
    "curriculum.alpha_start": 0.1,
    "curriculum.temperature_curriculum": "instance",
}


def _whole() -> Experiment:
    return build_experiment({}, WHOLE)


def _points(figure: Figure, panel: int) -> tuple[np.ndarray, np.ndarray]:
    (line,) = figure.axes[panel].get_lines()
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def test_lines_are_the_schedules_over_epochs() -> None:
    experiment = _whole()
    figure = draw_curriculum(experiment)
    distill, curriculum = experiment.distill, experiment.curriculum
    for panel, schedule in (
        (1, lambda t: compute_alpha(distill, curriculum, t)),
        (3, lambda t: compute_reversal(curriculum, t)),
    ):
        epochs, values = _points(figure, panel)
        assert (epochs[0], epochs[-1]) == (0.0, 12.0)
        np.testing.assert_allclose(values, [schedule(e / 12) for e in epochs])
    (stairs,) = figure.axes[0].patches
    shares = [100 * compute_epoch_share(curriculum, epoch, 12) for epoch in range(12)]
    assert shares[-2] < shares[-1] == 100
    np.testing.assert_allclose(stairs.get_data().values, shares)


def test_a_fixed_temperature_is_a_line_at_its_height() -> None:
    axes = draw_curriculum(Experiment()).axes
    (panel,) = [i for i, ax in enumerate(axes) if "temperature" in ax.get_title()]
    epochs, values = _points(draw_curriculum(Experiment()), panel)
    assert len(epochs) >= 2
    assert set(values) == {Experiment().distill.temperature}


def test_the_temperatures_bounds_and_start_are_shown() -> None:
    axes = draw_curriculum(_whole()).axes[2]
    (band,) = axes.patches
    low, high = band.get_extents().transformed(axes.transData.inverted()).intervaly
    assert (low, high) == pytest.approx((1.0, 11.0))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "learned between 1 and 11",
        "at first 4",
    ]


@pytest.mark.parametrize("experiment", [Experiment(), _whole()], ids=["defaults", "all"])
def test_every_axis_says_what_it_is(experiment: Experiment) -> None:
    axes = draw_curriculum(experiment).axes
    assert all(ax.get_ylabel() and ax.get_title() for ax in axes)
    assert axes[-1].get_xlabel() == "epochs done"


def test_the_command_draws_a_recipe_whose_corpus_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "plot.png"
    recipe.write_text(json.dumps({"corpus": {"manifest": "nowhere.parquet"}}), encoding="utf-8")
    arguments = ["curriculum", "plot", str(recipe), "--out", str(out)]
    arguments += ["--set", "curriculum.pacing=linear"]
    monkeypatch.setattr(sys, "argv", ["serkd", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "curriculum.pacing=fast"], "curriculum.pacing"),
        (["--out", "plot.txt"], "--out must be a file that ends in .png, got plot.txt"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=str,
)
def test_the_command_refuses_what_it_cannot_draw(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["serkd", "curriculum", "plot", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _titles(**changes: object) -> list[str]:
    settings = {f"{k.replace('__', '.')}": value for k, value in changes.items()}
    axes = draw_curriculum(build_experiment({}, {**WHOLE, **settings})).axes
    return [ax.get_title() for ax in axes]


def test_what_has_no_effect_is_not_drawn() -> None:
    """A temperature of no loss, a scorer that lots replace."""
    assert len(_titles()) == 4
    without = _titles(curriculum__alpha_curriculum="off", distill__alpha=0.0)
    assert len(without) == 2
    assert without[1] == "loss weight: no KD"
    assert len(_titles(distill__kd="mse_logits")) == 2
    assert _titles(curriculum__control="random")[0] == "data: root, in random order"
    assert _titles(curriculum__scorer="random")[0] == "data: root, in random order"
    assert _titles(curriculum__control="anti")[0].endswith("hard first, by teacher_cross_entropy")
