"""Designs of ablations: which arms there are, what they share, and what is refused."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.recipe import build_experiment
from serkd.search.ablation import Retune, read_ablation
from serkd.search.cells import (
    arm_cells,
    best_trial,
    tuning_cells,
    tuning_settings,
    unique_cells,
)
from serkd.search.controls import build_controls
from serkd.search.designs import ALL, Study, Wanted, read_study

REPOSITORY = Path(__file__).parents[2]
PARTS = {
    "kd": {"on": {"distill.alpha": 0.5}, "off": {"distill.alpha": 0.0}},
    "contrast": {"on": {"distill.supcon_weight": 0.2}, "off": {"distill.supcon_weight": 0.0}},
    "pacing": {"on": {"curriculum.pacing": "root"}, "off": {"curriculum.pacing": "none"}},
}
ONE = {"design": "list", "arms": {"a": {"student.depth": 2}}}
FACTORS = {"distill.alpha": [0.0, 0.5, 0.9], "student.depth": [2, 4]}


def _nothing(folder: Path) -> Experiment:
    raise AssertionError("no sweep is asked for")


def _read(folder: Path, file: Mapping[str, Any], wanted: Wanted = ALL, **base: object) -> Study:
    (folder / "base.yaml").write_text(json.dumps(base), encoding="utf-8")
    path = folder / "ablation.yaml"
    path.write_text(json.dumps({"question": "?", "base": "base.yaml", **file}), encoding="utf-8")
    return read_study(path, {}, _nothing, wanted=wanted)


def _values(study: Study, *keys: str) -> dict[str, tuple[Any, ...]]:
    found = {}
    for arm in study.arms:
        data = arm.experiment.model_dump(mode="json")
        found[arm.name] = tuple(data[key.split(".")[0]][key.split(".")[1]] for key in keys)
    return found


KEYS = ("distill.alpha", "distill.supcon_weight", "curriculum.pacing")


def test_leave_one_out_takes_one_component_from_all(tmp_path: Path) -> None:
    study = _read(tmp_path, {"design": "loco", "components": PARTS})
    assert _values(study, *KEYS) == {
        "reference": (0.5, 0.2, "root"),
        "without kd": (0.0, 0.2, "root"),
        "without contrast": (0.5, 0.0, "root"),
        "without pacing": (0.5, 0.2, "none"),
    }


def test_add_one_gives_one_component_to_none(tmp_path: Path) -> None:
    study = _read(tmp_path, {"design": "add_one", "components": PARTS})
    assert _values(study, *KEYS) == {
        "reference": (0.0, 0.0, "none"),
        "with kd": (0.5, 0.0, "none"),
        "with contrast": (0.0, 0.2, "none"),
        "with pacing": (0.0, 0.0, "root"),
    }


def test_one_at_a_time_changes_one_key_and_the_base_collapses(tmp_path: Path) -> None:
    file = {"design": "oat", "factors": FACTORS, "set": {"distill.alpha": 0.5, "student.depth": 4}}
    study = _read(tmp_path, file)
    assert _values(study, *FACTORS) == {
        "reference": (0.5, 4),
        "distill.alpha = 0.0": (0.0, 4),
        "distill.alpha = 0.9": (0.9, 4),
        "student.depth = 2": (0.5, 2),
    }
    assert study.arms[0].also == ("distill.alpha = 0.5", "student.depth = 4")
    assert study.arms[0].levels == {"distill.alpha": "0.5", "student.depth": "4"}


def test_a_factorial_has_every_combination_once(tmp_path: Path) -> None:
    given = {"distill.alpha": 0.5, "student.depth": 4}
    study = _read(tmp_path, {"design": "factorial", "factors": FACTORS, "set": given})
    expected = set(itertools.product(*FACTORS.values()))
    values = list(_values(study, *FACTORS).values())
    assert len(values) == len(expected)
    assert set(values) == expected
    assert study.arms[0].name == "reference"


def test_levels_may_be_groups_of_settings(tmp_path: Path) -> None:
    anti = {"curriculum.pacing": "root", "curriculum.control": "anti"}
    # the order of a curriculum that is off is nothing: such an arm is the reference
    still = {"curriculum.control": "random"}
    levels = {"off": {"curriculum.pacing": "none"}, "still off": still, "anti": anti}
    study = _read(tmp_path, {"design": "oat", "factors": {"order": levels}})
    assert study.arms[0].also == ("order = off", "order = still off")
    assert [arm.settings for arm in study.arms[1:]] == [anti]


def test_controls_are_those_of_the_reference(tmp_path: Path) -> None:
    """Not of the base, and one that is an arm already is no second arm."""
    arms = {
        "plain": {"distill.supcon_weight": 0.0},
        "contrast": {"distill.supcon_weight": 0.2},
        "labels": {"distill.supcon_weight": 0.0, "distill.alpha": 0.0},
    }
    file = {"design": "list", "arms": arms, "reference": "contrast", "controls": True}
    study = _read(tmp_path, file, student={"fit": {"epochs": 7}}, distill={"gamma": 0.0})
    found = {arm.name: arm for arm in study.arms}
    assert list(found) == [
        *("contrast", "plain", "labels", "control label_smoothing"),
        *("control random_teacher", "control twice_as_long"),
    ]
    assert found["plain"].also == ("control plain_kd",)
    assert found["labels"].also == ("control cross_entropy",)
    for name in ("random_teacher", "twice_as_long"):
        assert found[f"control {name}"].experiment.distill.supcon_weight == 0.2
    assert found["control twice_as_long"].experiment.student.fit.epochs == 14
    # what the base has too is not told again
    assert {*found["control label_smoothing"].settings} == {
        *("distill.alpha", "distill.label_smoothing", "distill.supcon_weight")
    }
    with pytest.raises(InputError, match="controls must be false unless model is 'student'"):
        _read(tmp_path, {**file, "model": "teacher"})


def test_a_list_names_its_reference(tmp_path: Path) -> None:
    arms = {"deep": {"student.depth": 6}, "plain": {}, "wide": {"student.width": 256}}
    study = _read(tmp_path, {"design": "list", "arms": arms, "reference": "plain"})
    assert [arm.name for arm in study.arms] == ["plain", "deep", "wide"]


def test_the_best_of_a_sweep_may_be_the_base(tmp_path: Path) -> None:
    best = build_experiment({}, {"student.depth": 7})
    path = tmp_path / "ablation.yaml"
    file = {"question": "?", "best_of": "sweep", "design": "list", "arms": {"a": {"seed_": 1}}}
    file["arms"] = {"shallow": {"student.depth": 2}}
    path.write_text(json.dumps(file), encoding="utf-8")
    asked = []

    def find(folder: Path) -> Experiment:
        asked.append(folder)
        return best

    study = read_study(path, {}, find)
    assert asked == [tmp_path / "sweep"]
    assert study.arms[0].experiment == best


def test_cells_of_a_fold_and_seed_differ_in_their_arm_alone(tmp_path: Path) -> None:
    """Common random numbers: what decides split, initialisation and batches is the same."""
    study = _read(tmp_path, {"design": "loco", "components": PARTS})
    groups = [arm_cells(arm.experiment, ("1", "2"), (3, 4)) for arm in study.arms]
    for cells in groups:
        assert {pair: (c.fold, c.seed) for pair, c in cells.items()} == {p: p for p in cells}
    for arm, cells in zip(study.arms, groups, strict=True):
        for cell in cells.values():
            assert cell.experiment.model_copy(update={"seed": 0}) == arm.experiment
            assert cell.experiment.protocol == study.base.protocol
    order = unique_cells(groups)
    assert len(order) == len({cell.name for cell in order}) == 4 * 4
    # every arm has had a fold and seed before any arm has the next
    assert [(c.fold, c.seed) for c in order[::4]] == [("1", 3), ("2", 3), ("1", 4), ("2", 4)]


def test_every_arm_is_tuned_with_the_same_trials(tmp_path: Path) -> None:
    space = {
        "student.fit.lr": {"float": [1e-4, 1e-2], "log": True},
        "student.depth": {"int": [2, 5]},
    }
    file = {
        "design": "loco",
        "components": PARTS,
        "seeds": [0],
        "retune": {"trials": 5, "space": space},
    }
    study = _read(tmp_path, file)
    retune = study.file.retune
    assert retune is not None
    settings = tuning_settings(retune)
    assert settings[0] == {}  # an arm's own come first
    assert len({json.dumps(each) for each in settings}) == 5
    for each in settings[1:]:
        assert 1e-4 <= each["student.fit.lr"] <= 1e-2
        assert each["student.depth"] in (2, 3, 4, 5)
    assert tuning_settings(retune) == settings
    for arm in study.arms:
        trials = tuning_cells(arm, retune, ("1", "2"))
        assert [[cell.fold for cell in trial] for trial in trials] == [["1"]] * 5
        assert {cell.seed for trial in trials for cell in trial} == {retune.seed}
        lrs = [trial[0].experiment.student.fit.lr for trial in trials[1:]]
        assert lrs == [each["student.fit.lr"] for each in settings[1:]]


def test_settings_that_are_tried_cover_the_range_evenly() -> None:
    """Of 17 trials, 16 are drawn: each quarter of every range has four (a net in base 2)."""
    space = {"a": {"float": [0.0, 1.0]}, "b": {"int": [1, 4]}, "c": {"choice": ["x", "y"]}}
    retune = Retune.model_validate_json(json.dumps({"trials": 17, "space": space}))
    drawn = tuning_settings(retune)[1:]
    assert sorted(int(4 * each["a"]) for each in drawn) == sorted([0, 1, 2, 3] * 4)
    assert sorted(each["b"] for each in drawn) == sorted([1, 2, 3, 4] * 4)
    assert sorted(each["c"] for each in drawn) == ["x"] * 8 + ["y"] * 8


def test_the_best_trial_is_whole_and_the_first_of_equals() -> None:
    assert best_trial([[0.5, 0.5], [0.9, None], [0.4, 0.6], [0.6, 0.6]]) == 3
    assert best_trial([[0.5], [0.5]]) == 0
    assert best_trial([[None], []]) is None


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"design": "loco"}, "components must not be empty"),
        ({"design": "oat", "components": PARTS, "factors": FACTORS}, "must be left out"),
        ({"design": "list", "arms": {"a": {"student.dept": 1}}}, "did you mean 'depth'"),
        ({"design": "list", "arms": {"a": {"seed": 1}}}, "same folds and seeds"),
        ({"design": "list", "arms": {"a": {"protocol.num_folds": 4}}}, "same folds and seeds"),
        (
            {"design": "list", "arms": {"a": {"protocol": {"num_folds": 4}}}},
            "arm 'a': must set single settings, protocol is a section",
        ),
        (
            {"design": "list", "arms": {"reference": {"student.depth": 4}}},
            "arms must have different names, 'reference' is there 2 times",
        ),
        (
            {"design": "list", "controls": True, "arms": {"control plain_kd": {}}},
            "arms must have different names, 'control plain_kd' is there 2 times",
        ),
        ({"design": "list", "arms": {"a\nb": {}}}, "printable"),
        (
            {"design": "list", "arms": {"a": {}, "b": {"train.cache_gb": 2.0}}},
            "must have two arms that differ, 'reference', 'a', 'b' are one experiment",
        ),
        ({**ONE, "set": {"seed": 5}}, "seed must not be set, give seeds"),
        ({**ONE, "seeds": [-1]}, r"seeds.0: must be greater than or equal to 0, got -1"),
        ({**ONE, "seeds": [2**32]}, "seeds.0: must be less than or equal to 4294967295"),
        (
            {
                **ONE,
                "controls": True,
                "retune": {"space": {"student.fit.epochs": {"int": [5, 9]}}},
            },
            "retune.space and control twice_as_long must not both set student.fit.epochs",
        ),
        (
            {**ONE, "retune": {"space": {"train.cache_gb": {"float": [1.0, 9.0]}}}},
            "retune.space: must not set train.cache_gb, which changes no result",
        ),
        ({"design": "list", "arms": {"a": {}}, "reference": "b"}, "must be one of a, got 'b'"),
        ({"design": "list", "arms": {"a": {}}, "seeds": [1, 1]}, "must not repeat"),
        ({"design": "loco", "components": {**PARTS, "again": PARTS["kd"]}}, "must not both set"),
        ({"design": "loco", "components": PARTS, "best_of": "x"}, "exactly one of base"),
        (
            {
                "design": "list",
                "arms": {"a": {"student.depth": 2}},
                "retune": {"space": {"student.depth": {"int": [1, 3]}}},
            },
            "must not both set student.depth",
        ),
        (
            {
                "design": "list",
                "arms": {"a": {}},
                "retune": {"space": {"distill.alpha": {"choice": [2.0]}}},
            },
            "distill.alpha",
        ),
        ({"design": "list", "arms": {"a": {}}, "folds": [1, 2]}, "names of folds in quotes"),
        (
            {"design": "factorial", "factors": {"curriculum": "root"}},
            "factors: curriculum: must be a list of a key's values, or levels .* got 'root'",
        ),
        (
            {
                "design": "list",
                "arms": {"a": {}},
                "retune": {"trils": 3, "space": {"student.depth": {"int": [1, 3]}}},
            },
            "retune.trils: unknown key; did you mean 'trials'?",
        ),
        (
            {
                "design": "list",
                "arms": {"a": {}},
                "retune": {"space": {"student.depth": {"int": [1, 3], "lgo": True}}},
            },
            r"retune\.space\.student\.depth\.lgo: unknown key; did you mean 'log'?",
        ),
        (
            {"design": "list", "arms": {"a": {}}, "retune": {"trials": 2}},
            "retune.space: must be given",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, file: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _read(tmp_path, file)


def test_what_is_set_for_the_base_takes_no_arm_its_meaning(tmp_path: Path) -> None:
    """An arm without a teacher has none, whatever the others are given of it."""
    arms = {"plain": {}, "no teacher": {"distill.alpha": 0.0, "distill.gamma": 0.0}}
    file = {"design": "list", "arms": arms, "reference": "plain", "controls": True}
    _read(tmp_path, file)
    given = {
        "distill.alpha": 0.9,
        "distill.gamma": 0.5,
        "curriculum.pacing": "linear",
        "student.fit.epochs": 20,
    }
    study = read_study(tmp_path / "ablation.yaml", given, _nothing)
    found = {arm.name: arm.experiment for arm in study.arms}
    alone = found["no teacher"]
    assert (alone.distill.alpha, alone.distill.gamma) == (0.0, 0.0)
    assert alone.student.fit.epochs == found["plain"].student.fit.epochs == 20
    plain = found["plain"]
    assert (plain.distill.alpha, plain.distill.gamma) == (0.9, 0.5)
    for control in build_controls(plain):
        assert found[f"control {control.name}"] == control.experiment
    assert found["control cross_entropy"].distill.alpha == 0.0
    assert found["control plain_kd"].curriculum.pacing == "none"
    assert found["control twice_as_long"].student.fit.epochs == 40


def test_the_shipped_files_are_legal() -> None:
    for path in (REPOSITORY / "search_spaces").glob("ablation_*.yaml"):
        read_ablation(path)
        for is_smoke in (False, True):
            assert len(read_study(path, {}, _nothing, is_smoke=is_smoke).arms) > 1


def test_some_arms_and_other_seeds_are_chosen_beside_the_reference(tmp_path: Path) -> None:
    file = {"design": "oat", "factors": FACTORS}
    every = _read(tmp_path, file)
    names = ("student.depth = 4", "distill.alpha = 0.0")
    chosen = _read(tmp_path, file, Wanted(names, (3, 5)))
    found = [arm.name for arm in chosen.arms]
    assert found == ["reference", "distill.alpha = 0.0", "student.depth = 4"]
    assert chosen.file.seeds == (3, 5)
    # all else is as in the whole: results are shared
    assert all(arm in every.arms for arm in chosen.arms)
    with pytest.raises(InputError, match=r"--arm must be of 'reference', .*got 'dept'"):
        _read(tmp_path, file, Wanted(("dept",)))
    with pytest.raises(InputError, match="seeds must not repeat"):
        _read(tmp_path, file, Wanted(seeds=(1, 1)))
