"""Units in reports: tables, warnings, pictures."""

import io
import json
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from serkd.report.terminal import print_units
from serkd.report.unit_plots import draw_emotions, draw_occupancy

Run = Any  # what the fixture of this folder gives
NAMES = ("emotion", "gender", "speaker")


def _print(folds: dict[str, Any]) -> str:
    text = io.StringIO()
    print_units(Console(file=text, width=120), folds)
    return text.getvalue()


def test_the_tables_show_every_scale_within_the_width_of_a_pipe(run: Run) -> None:
    shown = _print(run.results["folds"])
    quality = run.results["folds"]["1"]["units"]
    assert set(quality) == {"2/4", "2/8"}
    assert "…" not in shown
    for scale, found in quality.items():
        rows = [line.split() for line in shown.splitlines() if f" {scale} " in line]
        assert len(rows) == 2
        words = {word for row in rows for word in row}
        for name in NAMES:
            for measure in ("purity", "pnmi", "told"):
                assert f"{found[f'{name}_{measure}']:.3f}" in words
        assert {f"{found['utterance_entropy']:.2f}", f"{found['run_p95_frames']:.1f}"} <= words


def test_a_warning_stands_under_the_tables_with_its_fold_and_scale(run: Run) -> None:
    folds = json.loads(json.dumps(run.results["folds"]))
    for found in folds["1"]["units"].values():
        found["warnings"] = []
    folds["1"]["units"]["2/8"]["warnings"] = ["units mostly encode the speaker: …"]
    last = _print(folds).splitlines()[-1]
    assert last == "warning: fold 1, 2/8: units mostly encode the speaker: …"


def test_the_run_has_its_pictures_of_units(run: Run) -> None:
    folder = run.folder / "units" / "fold_1"
    assert {path.name for path in folder.iterdir()} == {
        "occupancy.png",
        "emotions_2_4.png",
        "emotions_2_8.png",
    }
    for path in folder.iterdir():
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 200
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20


def test_tensorboard_has_the_numbers_of_every_scale(run: Run) -> None:
    events = EventAccumulator(str(run.folder / "tensorboard" / "fold_1"))
    events.Reload()
    for scale, found in run.results["folds"]["1"]["units"].items():
        for name in ("perplexity_share", "num_unused", "speaker_told", "emotion_pnmi"):
            (event,) = events.Scalars(f"units/{scale}/{name}")
            assert event.value == pytest.approx(found[name], abs=1e-6)


def _heat(table: np.ndarray) -> np.ndarray:
    (image,) = draw_emotions(table, [f"e{i}" for i in range(len(table))]).axes[0].images
    return np.asarray(image.get_array())


@settings(max_examples=20, deadline=None)
@given(
    num_units=st.sampled_from([1, 3, 511, 512, 513, 4096]),
    num_classes=st.integers(2, 8),
    seed=st.integers(0, 99),
)
def test_columns_are_sorted_by_their_emotion_and_stay_few(
    num_units: int, num_classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    table = rng.poisson(3.0 * rng.random((num_classes, num_units)) ** 3)
    table[:, 0] += 1  # no unit used at all cannot be drawn
    heat = _heat(table)
    used = int(np.count_nonzero(table.sum(axis=0)))
    assert heat.shape == (num_classes, min(used, 512))
    if used <= 512:  # added up, neighbours of two emotions may go with a third
        assert np.all(np.diff(heat.argmax(axis=0)) >= 0)


def test_the_heat_map_says_how_many_times_its_share_an_emotion_has() -> None:
    table = np.array([[4_000_000, 2_000_000, 0], [0, 2_000_000, 4_000_000]])
    expected = [[1.0, 0.0, -np.inf], [-np.inf, 0.0, 1.0]]  # log2
    found = np.maximum(_heat(table[:, [1, 2, 0]])[:, [0, 1, 2]], -10)
    # the unit that goes with neither is sorted to the first emotion, as argmax does
    np.testing.assert_allclose(found, np.maximum(expected, -10), atol=1e-3)


def test_a_rare_unit_is_not_shown_as_a_strong_one() -> None:
    table = np.array([[5000, 1], [5000, 0]])
    frequent, rare = 0.0, np.log2((1 + 10 * 5001 / 10001) / 11 / (5001 / 10001))
    assert sorted(_heat(table)[0]) == pytest.approx([frequent, rare], abs=1e-3)
    assert rare < 0.2


def test_occupancy_is_sorted_relative_to_uniform_and_ends_at_the_unused() -> None:
    counts = np.array([0, 10, 30, 0, 20])
    ax = draw_occupancy({"6/5": counts, "6/2": np.array([7, 7])}).axes[0]
    stairs = ax.patches[0].get_data()
    assert stairs.values == pytest.approx([30 / 12, 20 / 12, 10 / 12])
    assert stairs.edges == pytest.approx([0, 20, 40, 60])
    legend = ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0].endswith("of 5, 2 unused")
    assert texts[1] == "6/2: perplexity 1.00 of 2"
