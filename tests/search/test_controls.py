"""Controls differ from their recipe in what they are for, and equal ones are not run twice."""

from typing import Any

import numpy as np
import pytest

from serkd.config import Experiment
from serkd.distill.curriculum import compute_alpha
from serkd.recipe import build_experiment
from serkd.search.controls import CONTROLS, average_alpha, build_controls
from serkd.stages.catalogue import find_models

WHOLE: dict[str, Any] = {
    "seed": 7,
    "student.fit.epochs": 9,
    "distill.kd": "dkd",
    "distill.alpha": 0.6,
    "distill.temperature": 3.0,
    "distill.gamma": 0.5,
    "distill.supcon_weight": 0.3,
    "distill.label_smoothing": 0.05,
    "curriculum.pacing": "root",
    "curriculum.temperature_curriculum": "global",
    "meta.order": "second",
}
CROSS_ENTROPY: dict[str, Any] = {"distill.alpha": 0.0, "distill.supcon_weight": 0.0}


def _changed(before: Experiment, after: Experiment) -> dict[str, tuple[object, object]]:
    def leaves(section: dict[str, Any], above: str = "") -> dict[str, object]:
        found = {}
        for name, value in section.items():
            if isinstance(value, dict):
                found.update(leaves(value, f"{above}{name}."))
            else:
                found[f"{above}{name}"] = value
        return found

    old, new = (leaves(each.model_dump(mode="json")) for each in (before, after))
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def test_controls_change_what_they_are_for_and_nothing_else() -> None:
    recipe = build_experiment({}, WHOLE)
    found = {
        control.name: {name: new for name, (_, new) in _changed(recipe, control.experiment).items()}
        for control in build_controls(recipe)
    }
    alone = {
        "distill.gamma": 0.0,
        "distill.supcon_weight": 0.0,
        "curriculum.pacing": "none",
        "curriculum.temperature_curriculum": "off",
        "meta.order": "off",
    }
    assert found == {
        "cross_entropy": {**alone, "distill.alpha": 0.0, "distill.label_smoothing": 0.0},
        "label_smoothing": {**alone, "distill.alpha": 0.0},  # the recipe's own amount
        "plain_kd": {**alone, "distill.kd": "kl", "distill.label_smoothing": 0.0},
        "random_teacher": {"distill.teacher": "random", "meta.order": "off"},
        "twice_as_long": {"student.fit.epochs": 18},
    }
    assert all(control.same_as is None for control in build_controls(recipe))


def test_a_random_teacher_in_place_of_one_whose_layers_learn_keeps_the_hints_knee() -> None:
    changes = {"meta.order": "second", "meta.trains": "last_n", "distill.gamma": 0.5}
    (control,) = (
        c for c in build_controls(build_experiment({}, changes)) if c.name == "random_teacher"
    )
    assert control.experiment.meta.order == "off"
    assert control.experiment.distill.hint_knee == 1.0


def test_controls_without_a_teacher_run_none() -> None:
    models = {c.name: find_models(c.experiment) for c in build_controls(build_experiment({}, {}))}
    alone = {"cross_entropy", "label_smoothing"}
    assert {name for name, found in models.items() if found == ("student",)} == alone


@pytest.mark.parametrize(
    ("recipe", "same"),
    [
        (
            CROSS_ENTROPY,
            {"cross_entropy": "recipe", "plain_kd": "recipe", "random_teacher": "recipe"},
        ),
        ({**CROSS_ENTROPY, "distill.label_smoothing": 0.2}, {"label_smoothing": "recipe"}),
        ({"distill.supcon_weight": 0.0}, {"plain_kd": "recipe"}),
        # weights of a loss that is not there
        (
            {"distill.supcon_weight": 0.0, "distill.dkd_other_weight": 3.0, "meta.rho": 0.5},
            {"plain_kd": "recipe"},
        ),
        # a temperature that learns to make nothing harder
        (
            {**CROSS_ENTROPY, "curriculum.temperature_curriculum": "instance"},
            {"cross_entropy": "recipe", "plain_kd": "recipe"},
        ),
        # a hint alone has no logits to learn: plain distillation of weight 0
        ({"distill.alpha": 0.0, "distill.gamma": 1.0}, {"plain_kd": "cross_entropy"}),
        ({"distill.teacher": "random"}, {"random_teacher": "recipe"}),
    ],
)
def test_a_control_that_is_the_recipe_or_another_one_says_so(
    recipe: dict[str, Any], same: dict[str, str]
) -> None:
    controls = build_controls(build_experiment({}, recipe))
    assert [control.name for control in controls] == list(CONTROLS)
    found = {control.name: control.same_as for control in controls if control.same_as}
    assert {name: found.get(name) for name in same} == same
    assert "twice_as_long" not in found


@pytest.mark.parametrize("mode", ["off", "linear", "cosine"])
@pytest.mark.parametrize("full_at", [0.25, 1.0])
def test_plain_distillation_has_the_mean_weight_of_the_recipe(mode: str, full_at: float) -> None:
    changes: dict[str, Any] = {
        "curriculum.alpha_curriculum": mode,
        "curriculum.alpha_start": 0.9,
        "curriculum.alpha_end": 0.2,
        "curriculum.alpha_full_at": full_at,
    }
    recipe = build_experiment({}, changes)
    middles = (np.arange(10_000) + 0.5) / 10_000
    expected = np.mean([compute_alpha(recipe.distill, recipe.curriculum, t) for t in middles])
    assert average_alpha(recipe) == pytest.approx(expected, abs=1e-6)
