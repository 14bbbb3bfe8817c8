"""What a search says when it is over: importance, edges, fronts, recipes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.recipe import read_experiment
from serkd.report.answers import find_answers, write_recipe
from serkd.search.dimension import Dimension
from serkd.search.draw import draw_params
from serkd.search.identity import experiment_key
from serkd.search.importance import compute_importance, list_edges
from serkd.search.pareto import find_front
from serkd.yaml12 import format_yaml, parse_yaml

DIMENSIONS = {
    "student.width": Dimension(choice=(16, 32, 64)),
    "distill.alpha": Dimension(float=(0.0, 1.0)),
    "student.fit.lr": Dimension(float=(1e-4, 1e-2), log=True),
    "curriculum.pacing": Dimension(choice=("none", "root")),
    "curriculum.start_share": Dimension(float=(0.1, 0.5), when={"curriculum.pacing": "root"}),
}


def _trials(count: int, noise: float = 0.0) -> tuple[list[dict[str, Any]], list[float]]:
    """Alpha decides: best at 0.8. The others do nothing."""
    rng = random.Random(0)
    params = [draw_params(DIMENSIONS, rng) for _ in range(count)]
    return params, [-((p["distill.alpha"] - 0.8) ** 2) + rng.gauss(0, noise) for p in params]


@pytest.mark.parametrize("maximise", [True, False])
def test_the_key_that_decides_is_the_most_important_and_its_band_apart(maximise: bool) -> None:
    params, values = _trials(120, noise=0.02)
    signed = values if maximise else [-value for value in values]
    rows = compute_importance(DIMENSIONS, params, signed, maximise=maximise, num_resamples=30)
    first, *others = rows
    assert first.key == "distill.alpha"
    assert all(first.low > other.share for other in others)
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    assert {row.key: row.num_trials for row in rows}["curriculum.start_share"] < 120
    assert all(row.low <= row.share <= row.high for row in rows)


def test_bands_of_noise_overlap_and_few_trials_say_nothing() -> None:
    rng = random.Random(1)
    params, _ = _trials(30)
    rows = compute_importance(DIMENSIONS, params, [rng.random() for _ in params], num_resamples=30)
    assert min(row.high for row in rows) > max(row.low for row in rows) - 0.2
    assert compute_importance(DIMENSIONS, params[:7], [0.0] * 7) == []
    constant = compute_importance(DIMENSIONS, params, [0.5] * 30, num_resamples=2)
    assert all(row.share == 0.0 for row in constant)


def test_a_best_trial_at_the_edge_of_a_range_is_said_to_be_there() -> None:
    best = {"student.width": 64, "distill.alpha": 0.99, "student.fit.lr": 9.9e-3}
    assert {key for key, _ in list_edges(DIMENSIONS, best)} == {"distill.alpha", "student.fit.lr"}
    inside = {"distill.alpha": 0.5, "student.fit.lr": 1e-3}
    assert list(list_edges(DIMENSIONS, inside)) == []


def test_the_front_is_what_nothing_dominates() -> None:
    rng = random.Random(2)
    names = ("dev_uar", "parameters", "latency_ms")
    trials = [
        {"trial": i, "values": {name: rng.randint(0, 6) for name in names}} for i in range(60)
    ]
    signs = {"dev_uar": -1, "parameters": 1, "latency_ms": 1}

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        pairs = [(signs[n] * one["values"][n], signs[n] * other["values"][n]) for n in names]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    expected = {one["trial"] for one in trials if not any(beats(other, one) for other in trials)}
    front = find_front(trials, names)
    assert {trial["trial"] for trial in front} == expected
    values = [trial["values"]["dev_uar"] for trial in front]
    assert values == sorted(values, reverse=True)


def _write_sweep(folder: Path, base: Experiment) -> None:
    folder.mkdir()
    space = {
        "base": "base.yaml",
        "space": {k: d.model_dump(mode="json") for k, d in DIMENSIONS.items()},
    }
    about = {"base": base.model_dump(mode="json"), "space": space}
    (folder / "sweep.json").write_text(json.dumps(about))
    params, values = _trials(20)
    records = [
        {"trial": i, "event": "finished", "params": p, "value": v, "time": float(i)}
        for i, (p, v) in enumerate(zip(params, values, strict=True))
    ]
    records.append({**records[0], "trial": 20, "event": "pruned", "value": 9.0})
    (folder / "ledger.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_the_best_trial_comes_back_from_its_recipe(tmp_path: Path, tiny: Experiment) -> None:
    folder = tmp_path / "sweep"
    _write_sweep(folder, tiny)
    found = find_answers(folder)
    values = [trial["value"] for trial in found["best"]]
    assert values == sorted(values, reverse=True)
    assert max(values) < 1.0  # a pruned trial is none
    experiment = write_recipe(folder, None, tmp_path / "best.yaml")
    again = read_experiment(tmp_path / "best.yaml")
    assert again == experiment
    assert experiment_key(again) == experiment_key(experiment)
    assert again.distill.alpha == found["best"][0]["params"]["distill.alpha"]
    other = write_recipe(folder, 3, tmp_path / "third.yaml")
    assert experiment_key(other) != experiment_key(experiment)
    with pytest.raises(InputError, match="must be a finished trial"):
        write_recipe(folder, 20, tmp_path / "pruned.yaml")


def test_text_that_looks_like_something_else_comes_back_from_yaml() -> None:
    texts = ["08", "010", "1e-4", "off", "null", "1:30", "0x1f", "~", "", "yes", ".5", "-1", "a: b"]
    numbers: list[object] = [1e-4, 1e-05, 2.0, 3, True, None, [], {}, 1e22]
    data = {"texts": texts, "numbers": numbers}
    assert parse_yaml(format_yaml(data), "here") == data
    pairs = zip(parse_yaml(format_yaml(data), "here")["numbers"], numbers, strict=True)
    assert all(type(one) is type(other) for one, other in pairs)
