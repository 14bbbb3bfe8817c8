"""Search spaces: what is refused, and what Optuna is asked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from serkd.errors import InputError
from serkd.recipe import build_experiment, read_experiment
from serkd.search.dimension import Dimension
from serkd.search.read import read_space
from serkd.search.suggest import decode_params, suggest

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "search_spaces").glob("*.yaml"))
SPACES = [path for path in FILES if not path.stem.startswith("ablation_")]
RECIPES = sorted((REPOSITORY / "jobs" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    assert read_experiment(path).student.fit.epochs >= 1


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_shipped_spaces_are_valid_and_say_why_for_every_key(path: Path) -> None:
    space, base = read_space(path, {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        suggest(trial, space.space)
        build_experiment(base.model_dump(mode="json"), decode_params(trial.params))
    lines = path.read_text(encoding="utf-8").splitlines()
    for dotted in space.space:
        line = next(line for line in lines if line.strip().startswith(f"{dotted}:"))
        assert "#" in line, f"{dotted} does not say why it is searched in this range"


def _write(folder: Path, space: Mapping[str, Any], **others: object) -> Path:
    (folder / "base.yaml").write_text("student: {width: 32}\n")
    path = folder / "space.yaml"
    path.write_text(json.dumps({"base": "base.yaml", "space": space, **others}))
    return path


def _problems(folder: Path, space: Mapping[str, Any], **others: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_space(_write(folder, space, **others), {})
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"distill.alhpa": {"float": [0.1, 0.9]}}, "distill.alhpa: unknown key; did you mean"),
        ({"distil.alpha": {"float": [0.1, 0.9]}}, "did you mean 'distill'?"),
        ({"distill.alpha": {"float": [0.1, 1.5]}}, "must be less than or equal to 1, got 1.5"),
        ({"distill.alpha": {"float": [-0.1, 0.5]}}, "greater than or equal to 0, got -0.1"),
        (
            {"student.family": {"choice": ["conv", "tokn"]}},
            "must be 'conv', 'token' or 'conv_token', got 'tokn'",
        ),
        ({"student.depth": {"int": [0, 3]}}, "must be greater than or equal to 1, got 0"),
        ({"student.depth": {"float": [1.5, 3.5]}}, "student.depth"),
        ({"student": {"choice": [{"width": 64}]}}, "must be a single setting, it is a section"),
        ({"distill.alpha": {"float": [0.9, 0.1]}}, "must go from low to high, got [0.9, 0.1]"),
        ({"distill.alpha": {"float": [0.1, 0.9], "choice": [1]}}, "exactly one of choice, int"),
        ({"distill.alpha": {}}, "exactly one of choice, int, float, got none"),
        ({"distill.alpha": {"choice": []}}, "distill.alpha.choice"),
        ({"student.fit.lr": {"float": [0.0, 0.1], "log": True}}, "a range above 0"),
        (
            {"student.fit.lr": {"float": [0.01, 0.1], "step": 0.01, "log": True}},
            "step must be used with int or float, without log",
        ),
        ({"distill.alpha": {"float": [0.1, 0.5], "step": 0.3}}, "from 0.1 to 0.5 exactly, got 0.3"),
        ({"student.depth": {"int": [2, 6], "step": 1.5}}, "step must be whole for int, got 1.5"),
        ({"student.depth": {"choice": [2, 3, 2]}}, "choice must not repeat a value"),
        ({"seed": {"choice": [1, 2]}}, "give seeds: every trial is run with each"),
        ({"train.num_workers": {"choice": [1, 2]}}, "it changes no result"),
        ({"distill.alpha": {"flaot": [0.1, 0.9]}}, "did you mean 'float'?"),
        ({}, "space"),
    ],
)
def test_what_cannot_work_is_refused_with_the_key_and_the_rule(
    tmp_path: Path, space: Mapping[str, Any], expected: str
) -> None:
    problems = _problems(tmp_path, space)
    assert any(expected in problem for problem in problems), problems
    assert all(problem.startswith(str(tmp_path / "space.yaml")) for problem in problems)


def test_a_misspelt_key_of_a_constraint_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    space = {"distill.alpha": {"float": [0.1, 0.9]}}
    limit = {"value": "parameters", "maximum": 5.0e6}
    problems = _problems(tmp_path, space, constraints=[limit])
    (unknown,) = [problem for problem in problems if "unknown key" in problem]
    assert "maximum: unknown key; did you mean 'max'? allowed: " in unknown


@pytest.mark.parametrize(
    "dimension", [{"int": [3, 9]}, {"int": [3, 9], "step": 3}, {"int": [3, 99], "log": True}]
)
def test_an_illegal_value_inside_a_range_is_refused(
    tmp_path: Path, dimension: Mapping[str, Any]
) -> None:
    """Both ends are odd as they must be, but trials would be given even numbers too."""
    problems = _problems(tmp_path, {"student.kernel_frames": dimension})
    assert all("kernel_frames must be odd" in problem for problem in problems)


def test_a_range_whose_steps_are_all_legal_is_accepted(tmp_path: Path) -> None:
    path = _write(tmp_path, {"student.kernel_frames": {"int": [3, 9], "step": 2}})
    assert read_space(path, {})[0].space["student.kernel_frames"].int == (3, 9)


def test_every_problem_of_a_space_is_reported_at_once(tmp_path: Path) -> None:
    problems = _problems(
        tmp_path,
        {
            "distill.alhpa": {"float": [0.1, 0.9]},
            "student.depth": {"int": [0, 3]},
            "student.width": {"choice": [16], "when": {"student.family": "token"}},
        },
    )
    text = "\n".join(problems)
    assert all(name in text for name in ("distill.alhpa", "student.depth", "student.width.when"))


FAMILY = {"choice": ["conv", "token"]}


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (
            {"student.num_heads": {"choice": [2], "when": {"student.family": "token"}}},
            "must name a key searched above it, got 'student.family'",
        ),
        (
            {
                "student.num_heads": {"choice": [2], "when": {"student.family": "token"}},
                "student.family": FAMILY,
            },
            "must name a key searched above it, got 'student.family'",
        ),
        (
            {
                "student.family": FAMILY,
                "student.num_heads": {"choice": [2], "when": {"student.family": "tokens"}},
            },
            "must be one of that key's choices, or a list of them, got 'tokens'",
        ),
        (
            {"student.num_heads": {"choice": [2], "when": {"student.num_heads": 2}}},
            "must name a key searched above it, got 'student.num_heads'",
        ),
        (
            {
                "student.family": {"choice": ["conv"], "when": {"student.depth": 2}},
                "student.depth": {"choice": [2], "when": {"student.family": "conv"}},
            },
            "must name a key searched above it, got 'student.depth'",
        ),
    ],
)
def test_a_condition_must_name_a_choice_of_a_key_above_it(
    tmp_path: Path, space: Mapping[str, Any], expected: str
) -> None:
    assert any(expected in problem for problem in _problems(tmp_path, space))


def test_a_value_that_is_legal_under_its_condition_only_is_accepted(tmp_path: Path) -> None:
    """Heads must divide the width of a token student; the conv base does not care."""
    space = {
        "student.family": FAMILY,
        "student.num_heads": {"choice": [4, 8], "when": {"student.family": "token"}},
    }
    read_space(_write(tmp_path, space), {})
    space["student.num_heads"] = {"choice": [4, 5], "when": {"student.family": "token"}}
    (problem,) = _problems(tmp_path, space)
    assert "width must be a multiple of num_heads = 5" in problem


def test_overrides_and_fixed_keys_are_laid_over_the_base(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        {"distill.alpha": {"float": [0.1, 0.9]}},
        set={"student.depth": 2, "seed": 5},
    )
    base = read_space(path, {"seed": 6})[1]
    assert (base.student.width, base.student.depth, base.seed) == (32, 2, 6)


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    problems = _problems(tmp_path, {"distill.alpha": {"choice": [0.5]}}, base="nowhere.yaml")
    assert "nowhere.yaml" in problems[0]


CONDITIONAL = {
    "curriculum.pacing": Dimension(choice=("none", "root")),
    "curriculum.start_share": Dimension(float=(0.1, 0.5), when={"curriculum.pacing": "root"}),
    "curriculum.full_at": Dimension(
        choice=(0.5, 1.0), when={"curriculum.pacing": "root", "curriculum.start_share": 0.3}
    ),
    "student.depth": Dimension(int=(2, 8), step=2),
    "student.fit.lr": Dimension(float=(1e-4, 1e-2), log=True),
}


@pytest.mark.parametrize(
    ("fixed", "active"),
    [
        ({"curriculum.pacing": '"none"'}, {"curriculum.pacing"}),
        (
            {"curriculum.pacing": '"root"', "curriculum.start_share": 0.2},
            {"curriculum.pacing", "curriculum.start_share"},
        ),
        (
            {
                "curriculum.pacing": '"root"',
                "curriculum.start_share": 0.3,
                "curriculum.full_at": "1.0",
            },
            {"curriculum.pacing", "curriculum.start_share", "curriculum.full_at"},
        ),
    ],
)
def test_only_active_keys_are_suggested(fixed: dict[str, Any], active: set[str]) -> None:
    trial = optuna.trial.FixedTrial({**fixed, "student.depth": 4, "student.fit.lr": 1e-3})
    suggest(trial, CONDITIONAL)
    assert set(trial.params) == active | {"student.depth", "student.fit.lr"}


def test_suggestions_stay_in_their_ranges_and_steps() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: dict[str, list[Any]] = {}
    for _ in range(200):
        trial = study.ask()
        suggest(trial, CONDITIONAL)
        for name, value in decode_params(trial.params).items():
            seen.setdefault(name, []).append(value)
    assert set(seen["student.depth"]) == {2, 4, 6, 8}
    rates = seen["student.fit.lr"]
    assert 1e-4 <= min(rates) < 3e-4 < 3e-3 < max(rates) <= 1e-2
    # sampled in the logarithm, half of the rates are below the geometric mean of the ends
    assert 0.35 < sum(rate < 1e-3 for rate in rates) / len(rates) < 0.65
    assert len(seen["curriculum.start_share"]) == seen["curriculum.pacing"].count("root")


def test_choices_of_any_kind_come_back_from_optuna_as_they_went_in() -> None:
    values = (None, True, False, 0, 1, 0.25, "none", "1", "null", [8], [16, 64], {"a": [None]}, "")
    dimensions = {"key": Dimension(choice=values)}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(400):
        trial = study.ask()
        suggest(trial, dimensions)
        found.append(decode_params(trial.params)["key"])
    # as text, since to Python True is 1 and False is 0
    assert {json.dumps(value) for value in found} == {json.dumps(value) for value in values}


def test_numbers_are_not_touched_by_decoding() -> None:
    assert decode_params({"a": 3, "b": 0.5, "c": "[1, 2]"}) == {"a": 3, "b": 0.5, "c": [1, 2]}


def test_a_space_may_write_numbers_as_1e_4(tmp_path: Path) -> None:
    """YAML 1.2 has it as a number, YAML 1.1 as text."""
    path = _write(tmp_path, {"distill.alpha": {"choice": [0.5]}})
    text = yaml.safe_dump({"base": "base.yaml"}) + (
        "space:\n  student.fit.lr:\n    float: [1e-4, 1e-2]\n    log: true\n"
    )
    path.write_text(text)
    assert read_space(path, {})[0].space["student.fit.lr"].float == (1e-4, 1e-2)


def test_unknown_keys_of_a_space_are_refused_with_the_nearest(tmp_path: Path) -> None:
    problems = _problems(tmp_path, {"distill.alpha": {"choice": [0.5]}}, budgte={})
    assert "budgte: unknown key; did you mean 'budget'?" in problems[0]
