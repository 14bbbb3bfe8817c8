"""Experiments from YAML: strict, frozen, and wrong in ways that a user can repair at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.recipe import build_experiment, read_experiment
from serkd.yaml12 import format_value, parse_yaml, read_yaml

_ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((_ROOT / "jobs" / "recipes").glob("*.yaml"))


def _read(tmp_path: Path, text: str, *overrides: str) -> Experiment:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return read_experiment(path, overrides)


def _refused(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as refused:
        _read(tmp_path, text, *overrides)
    return str(refused.value).splitlines()


def _leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nested(dotted: str, value: object) -> dict[str, Any]:
    """{"a": {"b": value}} of "a.b"."""
    *parents, leaf = dotted.split(".")
    data: dict[str, Any] = {leaf: value}
    for name in reversed(parents):
        data = {name: data}
    return data


LEAVES = dict(_leaves(Experiment()))
NUMBERS = [name for name, value in LEAVES.items() if type(value) in (int, float)]


@pytest.mark.parametrize("dotted", LEAVES)
def test_stating_a_default_changes_nothing(dotted: str) -> None:
    # above all not the defaults of its neighbours
    value = json.loads(json.dumps(LEAVES[dotted]))
    assert build_experiment(_nested(dotted, value), {}) == Experiment()
    assert build_experiment({}, {dotted: value}) == Experiment()


@pytest.mark.parametrize("dotted", LEAVES)
def test_every_leaf_is_strict(dotted: str, tmp_path: Path) -> None:
    # no leaf takes a section, and none turns it into something else
    (problem,) = _refused(tmp_path, yaml.safe_dump(_nested(dotted, {"some": "section"})))
    assert f"recipe.yaml: {dotted}" in problem


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e999"])
@pytest.mark.parametrize("dotted", NUMBERS)
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, dotted: str, number: str) -> None:
    (problem,) = _refused(tmp_path, "", f"{dotted}={number}")
    assert f"recipe.yaml: {dotted}: must be " in problem


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("studnet: {width: 3}", "studnet", "student"),
        ("student: {widht: 3}", "student.widht", "width"),
        ("student: {fit: {epoch: 3}}", "student.fit.epoch", "epochs"),
        (
            "teacher: {stage2: {fit: {backbone_l: 1}}}",
            "teacher.stage2.fit.backbone_l",
            "backbone_lr",
        ),
        ("units: {num_cluster: [4]}", "units.num_cluster", "num_clusters"),
    ],
)
def test_an_unknown_key_names_the_nearest_legal_one(
    tmp_path: Path, text: str, key: str, nearest: str
) -> None:
    (problem,) = _refused(tmp_path, text)
    assert f"{key}: unknown key; did you mean {nearest!r}?" in problem


def test_a_key_like_no_other_gets_the_whole_list(tmp_path: Path) -> None:
    (problem,) = _refused(tmp_path, "protocol: {xyz: 1}")
    assert problem.endswith(
        "protocol.xyz: unknown key; allowed: folds, labels, name, num_folds, seed, test_corpora"
    )


def test_all_problems_of_a_file_are_reported_with_their_paths(tmp_path: Path) -> None:
    text = """
        seeed: 1
        seed: -1
        units: {num_clusters: [64, 1], tolerance: 1e-4}
        student:
          family: transformer
          fit: {lr: fast, epochs: 0}
        teacher: {stage2: {margin: 1.5}}
        distill: {alpha: 2}
    """
    problems = _refused(tmp_path, text)
    assert all(problem.startswith(f"{tmp_path / 'recipe.yaml'}: ") for problem in problems)
    named = {problem.split(": ")[1] for problem in problems}
    assert named == {
        "seeed",
        "seed",
        "units.num_clusters.1",
        "student.family",
        "student.fit.lr",
        "student.fit.epochs",
        "teacher.stage2.margin",
        "distill.alpha",
    }
    assert len(problems) == len(named)


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        ("student: {fit: {epochs: 0}}", "must be greater than or equal to 1", "0"),
        ("student: {fit: {epochs: 1.5}}", "must be a valid integer", "1.5"),
        ("student: {fit: {epochs: '3'}}", "must be a valid integer", "'3'"),
        ("student: {fit: {epochs: true}}", "must be a valid integer", "True"),
        ("student: {fit: {lr: '1e-4'}}", "must be a valid number", "'1e-4'"),
        ("student: {logmel: {frame_rate_hz: 75}}", "must be 50 or 100", "75"),
        ("corpus: {trim_silence_db: 0}", "must be greater than 0", "0"),
        ("corpus: {max_duration_s: 31}", "must be less than or equal to 30", "31"),
        ("backbone: {name: 5}", "must be a valid string", "5"),
        ("student: {augment: {crop_frames: 1000000}}", "must be less than or equal to", "1000000"),
        ("student: {augment: {gain_db: 61}}", "must be less than or equal to 60", "61"),
    ],
)
def test_a_problem_says_the_rule_and_then_the_value(
    tmp_path: Path, text: str, rule: str, value: str
) -> None:
    (problem,) = _refused(tmp_path, text)
    assert f": {rule}" in problem
    assert problem.endswith(f", got {value}")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("units: {layers: [1, 2, 1]}", "layers must not repeat a value, got [1, 2, 1]"),
        ("units: {num_clusters: [8, 8]}", "num_clusters must not repeat a value, got [8, 8]"),
        ("units: {max_points: 63, num_clusters: [8, 64]}", "max_points"),
        (
            "teacher: {stage2: {fit: {epochs: 0}}}",
            "fit.epochs must be at least 1 unless probe_l2 is set, got 0",
        ),
        (
            "teacher: {stage2: {probe_l2: 0.1}}",
            "probe_l2 must be null unless loss is 'cross_entropy', got 0.1 with 'am_softmax'",
        ),
        ("teacher: {answer_speeds: [3]}", "answer_speeds must be 0.5 to 2, got [3.0]"),
        ("teacher: {answer_speeds: [1, 1]}", "answer_speeds must not repeat, got [1.0, 1.0]"),
        (
            "teacher: {answer_speeds: [0.9]}\nmeta: {order: finite, trains: last_n}",
            "teacher.answer_speeds must be [1.0] when meta.trains is 'last_n'",
        ),
        (
            "teacher: {answer_speeds: [0.9]}\nmeta: {order: finite}",
            "teacher.answer_speeds must be [1.0] when meta.order is on and teacher.stage2.loss is "
            "'am_softmax'",
        ),
        (
            "distill: {gamma: 1, hint_knee: 1e-6}\nmeta: {order: second, trains: last_n}",
            "distill.hint_knee must be at least 0.01 when meta.trains is 'last_n' and distill.gam",
        ),
        (
            "distill: {alpha: 0, supcon_weight: 1}",
            "distill.supcon_weight must be below 1 unless distill.alpha is above 0",
        ),
        (
            "meta: {order: second}\n"
            "curriculum: {alpha_curriculum: linear, alpha_start: 0, alpha_end: 0}",
            "curriculum.alpha_start or alpha_end must be above 0 when meta.order is on",
        ),
        (
            "curriculum: {alpha_curriculum: cosine, alpha_end: 0.7}",
            "curriculum.alpha_start and alpha_end must differ when curriculum.alpha_curriculum is "
            "on (null = distill.alpha), got 0.7 for both",
        ),
        ("meta: {rho: 1}", "meta.rho: must be less than 1, got 1"),
        (
            "student: {family: token, augment: {crop_frames: 100}}",
            "augment.crop_frames must be null or at least num_frames = 600 for token",
        ),
        (
            "student: {family: conv_token, length: resample, augment: {crop_frames: 100}}",
            "augment.crop_frames must be null when length is 'resample'",
        ),
        (
            "distill: {kd: dkd, dkd_target_weight: 0, dkd_other_weight: 0}",
            "distill: dkd_target_weight or dkd_other_weight must be above 0 when kd is 'dkd'",
        ),
        (
            "student: {augment: {noise_snr_db: [-4000, 0]}}",
            "student.augment.noise_snr_db: must be [low, high], from -60 to 100 dB, got "
            "[-4000.0, 0.0]",
        ),
        (
            "teacher: {stage2: {augment: {noise_snr_db: [20, 5]}}}",
            "teacher.stage2.augment.noise_snr_db: must be [low, high], from -60 to 100 dB, got "
            "[20.0, 5.0]",
        ),
        ("student: {kernel_frames: 4}", "kernel_frames must be odd, got 4"),
        (
            "student: {stem: frames, depth: 2}",
            "depth must be at least 3, one layer for each halving from 100 Hz, when reduction is 4",
        ),
        (
            "teacher: {stage2: {class_weights: balanced, fit: {batches: class_balanced}}}",
            "class_weights must be 'none' when fit.batches is 'class_balanced'",
        ),
        (
            "student: {family: token, width: 30}",
            "width must be a multiple of num_heads = 4, got 30",
        ),
        (
            "{meta: {order: second}, train: {num_workers: 2}}",
            "meta.order must be 'off' when train.num_workers > 1",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    tmp_path: Path, text: str, named: str
) -> None:
    (problem,) = _refused(tmp_path, text)
    assert named in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("units: {layers: [0]}", "units.layers.0: must be greater than or equal to 1, got 0"),
        ("units: {layers: []}", "units.layers: must "),
    ],
)
def test_a_wrong_list_is_one_problem_in_our_words(tmp_path: Path, text: str, problem: str) -> None:
    (found,) = _refused(tmp_path, text)
    assert problem in found


def test_rules_between_settings_of_one_section_are_reported_together(tmp_path: Path) -> None:
    text = "student: {family: token, width: 30, kernel_frames: 4}"
    problems = "\n".join(_refused(tmp_path, text))
    assert "width must be a multiple" in problems
    assert "kernel_frames must be odd" in problems


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("2e+1", 20.0), ("1.5e-3", 1.5e-3), (".5", 0.5), ("3", 3.0)],
)
def test_numbers_of_yaml_1_2_are_numbers(tmp_path: Path, text: str, number: float) -> None:
    assert _read(tmp_path, f"student: {{fit: {{lr: {text}}}}}").student.fit.lr == number
    assert _read(tmp_path, "", f"student.fit.lr={text}").student.fit.lr == number


@pytest.mark.parametrize("word", ["off", "no", "on", "yes"])
def test_words_of_yaml_1_2_are_words(tmp_path: Path, word: str) -> None:
    # YAML 1.1 read these as booleans
    assert _read(tmp_path, f"corpus: {{manifest: {word}}}").corpus.manifest == word


def test_off_can_be_written_as_it_is_spelled(tmp_path: Path) -> None:
    assert _read(tmp_path, "meta: {order: off}").meta.order == "off"
    assert _read(tmp_path, "meta: {order: finite}", "meta.order=off").meta.order == "off"


def test_whole_numbers_of_yaml_1_2_have_no_octal_and_no_sixties(tmp_path: Path) -> None:
    assert _read(tmp_path, "seed: 010").seed == 10
    (problem,) = _refused(tmp_path, "seed: 1:30")
    assert problem.endswith("seed: must be a valid integer, got '1:30'")


def test_overrides_reach_nested_values_lists_and_sections(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        "{units: {num_clusters: [8], layers: [2]}, student: {width: 32, fit: {epochs: 3}}}",
        "units.num_clusters=[64,512]",
        "student.fit.lr=1e-4",
        "distill={alpha: 0.25, temperature: 2}",
        "corpus.manifest=a=b.parquet",
        "teacher.stage1.fit.patience=null",
        "student.fit.epochs=5",
        "student.fit.epochs=7",
    )
    assert found.units.num_clusters == (64, 512)
    assert found.units.layers == (2,)
    assert (found.student.width, found.student.fit.epochs, found.student.fit.lr) == (32, 7, 1e-4)
    assert (found.distill.alpha, found.distill.temperature) == (0.25, 2.0)
    assert found.corpus.manifest == "a=b.parquet"
    assert found.teacher.stage1.fit.patience is None


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("student.fit.lr", "--set must look like dotted.key=value, got 'student.fit.lr'"),
        ("student.fit.lr=[1", "--set student.fit.lr: must be YAML"),
        ("=3", "--set must look like dotted.key=value, got '=3'"),
        ("student.fit.lrr=1", "student.fit.lrr: unknown key; did you mean 'lr'?"),
        ("seed.x=1", "seed"),
    ],
)
def test_wrong_overrides_are_refused(tmp_path: Path, override: str, rule: str) -> None:
    problems = _refused(tmp_path, "seed: 1", override)
    assert len(problems) == 1
    assert rule in problems[0]


def test_overriding_does_not_change_the_data_it_is_laid_over() -> None:
    data: dict[str, Any] = {"student": {"fit": {"epochs": 3}}}
    assert build_experiment(data, {"student.fit.epochs": 4}).student.fit.epochs == 4
    assert data == {"student": {"fit": {"epochs": 3}}}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"seed: [1", "must be YAML"),
        (b"- seed\n", "must hold keys and values, got a list"),
        (b"just text", "must hold keys and values, got a str"),
        (b"seed: 2024-01-01\n", "seed|numbers, text, lists"),
        (b"seed: !!python/object/apply:os.getcwd []\n", "must be YAML"),
        (b"backbone: {name: b\xf6se}\n", "must be YAML|UTF-8"),
        (b"seed: 1\nseed: 2\n", "seed"),
    ],
)
def test_files_that_are_no_recipe_are_refused_by_name(
    tmp_path: Path, content: bytes, rule: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"recipe\.yaml: .*({rule})"):
        read_experiment(path)


def test_a_missing_recipe_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: must be a YAML file, but there is none"):
        read_experiment(tmp_path / "none.yaml")


def test_an_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    assert _read(tmp_path, "") == Experiment()
    assert _read(tmp_path, "# only a comment\n") == Experiment()


def test_experiments_are_frozen_to_the_leaves() -> None:
    experiment = Experiment()
    for dotted in LEAVES:
        *parents, leaf = dotted.split(".")
        section: Any = experiment
        for name in parents:
            section = getattr(section, name)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, leaf, LEAVES[dotted])
    assert hash(experiment) == hash(Experiment())


def test_a_seed_that_no_generator_takes_is_refused(tmp_path: Path) -> None:
    # scikit-learn's and NumPy's legacy seeds end at 2^32 - 1: better here than after an hour
    assert _read(tmp_path, f"seed: {2**32 - 1}").seed == 2**32 - 1
    (problem,) = _refused(tmp_path, f"seed: {2**32}")
    assert "seed: must be less than" in problem


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_satisfy_the_json_schema_and_the_models(path: Path) -> None:
    schema = Experiment.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    data = read_yaml(path)
    jsonschema.Draft202012Validator(schema).validate(data)
    resolved = read_experiment(path).model_dump(mode="json")
    jsonschema.Draft202012Validator(schema).validate(resolved)
    # what `serkd config` prints is itself a recipe, of the same experiment
    assert build_experiment(resolved, {}) == read_experiment(path)


@pytest.mark.parametrize(
    "data",
    [
        {"studnet": {}},
        {"student": {"fit": {"epochs": 0}}},
        {"student": {"fit": {"lr": "fast"}}},
        {"units": {"num_clusters": [1]}},
        {"units": {"layers": []}},
        {"meta": {"order": False}},
    ],
)
def test_the_json_schema_refuses_what_the_models_refuse(data: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(Experiment.model_json_schema())
    assert not validator.is_valid(data)
    with pytest.raises(InputError):
        build_experiment(data, {})


@pytest.mark.parametrize("text", ["corpus: {manifest: {{ MANIFEST }}}", "? [a]\n: 1"])
def test_a_key_that_is_no_text_is_refused(tmp_path: Path, text: str) -> None:
    """A template that was not filled in has one."""
    (problem,) = _refused(tmp_path, text)
    assert "must be YAML: a key must be text" in problem


def test_a_section_that_holds_itself_is_refused(tmp_path: Path) -> None:
    (problem,) = _refused(tmp_path, "student: &a {fit: *a}")
    assert "must hold numbers, text, lists and sections" in problem


_PLAIN = ["mine.parquet", "é", "x\ny", "", " a", "[", '"', "'q'", "a: b"]
_OTHERWISE_READ = ["1", "None", "null", "off", "1e-4", "2024-01-01"]


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 1e-5, 1e20, [1.0, 2], ["a", "1"], {"a": [1, None]}, *_PLAIN, *_OTHERWISE_READ],
)
def test_a_value_is_written_as_it_is_read(value: object) -> None:
    """What a report says was given to --set can be given again."""
    text = format_value(value)
    found = parse_yaml(text, "a test")
    assert (found, type(found)) == (value, type(value))
    assert "\n" not in text
