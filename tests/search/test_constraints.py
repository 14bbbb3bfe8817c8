"""Constraints: what is refused, what is computed, and that no illegal trial passes."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serkd.errors import InputError
from serkd.features.backbone import Prefix, find_backbone
from serkd.models.student import build_student, count_parameters
from serkd.recipe import build_experiment
from serkd.search.build import Builder, Legality
from serkd.search.constraints import Constraints
from serkd.search.dimension import Dimension
from serkd.search.draw import draw_params
from serkd.search.expression import parse_expression
from serkd.search.footprint import count_student, measure_latency
from serkd.search.grid import list_cells
from serkd.search.read import read_space
from serkd.search.space import Rule

BASE = build_experiment({}, {})


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "open('x')",
        "student.width.bit_length()",
        "[x for x in units.layers]",
        "(lambda: 1)()",
        "units.layers[0]",
        "f'{student.width}'",
        "student.width ** 9",
        "student.width := 3",
        "1 if True else 2",
        "len(units.layers, key=len)",
        "student.width <",
        "",
        "(" * 500 + ")" * 500,
    ],
)
def test_anything_but_arithmetic_and_comparisons_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be (an expression of|at most)"):
        parse_expression(text)


@given(
    a=st.integers(-50, 50),
    b=st.integers(-50, 50).filter(bool),
    values=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
def test_expressions_agree_with_python(a: int, b: int, values: list[int]) -> None:
    texts = [
        "a % b == 0 or a // b > 1",
        "-a + 2 * b - a / b < max(a, b) and not a == b",
        "a in values or len(values) >= 2",
        "0 <= a < b != 7",
        "min(values) + sum(values) not in (a, b)",
        "abs(a) <= 3 == false",
    ]
    known: dict[str, Any] = {"a": a, "b": b, "values": values}
    for text in texts:
        expected = eval(text, {"false": False}, known)  # the reference
        assert parse_expression(text).compute(known) == expected


def test_values_that_cannot_be_computed_with_are_named() -> None:
    with pytest.raises(ValueError, match=r"cannot be computed with a = None"):
        parse_expression("a < 3").compute({"a": None})
    with pytest.raises(ValueError, match=r"'conv' is not a number"):
        parse_expression("a * 1000 == 1").compute({"a": "conv"})


def _write(folder: Path, constraints: list[Any], **space: Any) -> Path:  # noqa: ANN401
    import json

    (folder / "base.yaml").write_text("student: {width: 32}\n")
    path = folder / "space.yaml"
    keys = space or {"student.width": {"choice": [16, 32]}}
    path.write_text(json.dumps({"base": "base.yaml", "space": keys, "constraints": constraints}))
    return path


def test_every_problem_of_constraints_is_reported_at_once(tmp_path: Path) -> None:
    constraints = [
        "student.widht > 3",
        "student.family == conv",
        "student.width + 1",
        "import os",
        {"value": "params", "max": 3},
        "1 < 2",
        "distill.alpha > 'a'",
    ]
    with pytest.raises(InputError) as caught:
        read_space(_write(tmp_path, constraints), {})
    text = str(caught.value)
    for i, said in [
        (0, "did you mean 'student.width'?"),
        (1, "got 'conv' (text needs quotes: 'conv')"),
        (3, "must be an expression of"),
        (4, "did you mean 'parameters'?"),
        (5, "must name a key, parameters or latency_ms"),
    ]:
        assert any(f"constraints.{i}" in line and said in line for line in text.splitlines()), said
    with pytest.raises(InputError, match=r"must be true or false, 'student\.width \+ 1' is 33"):
        read_space(_write(tmp_path, constraints[2:3]), {})
    with pytest.raises(InputError, match=r"cannot be computed with distill\.alpha = 0\.7"):
        read_space(_write(tmp_path, constraints[6:]), {})


@pytest.mark.parametrize(
    "rule", [{"value": "parameters"}, {"value": "parameters", "min": 3, "max": 2}]
)
def test_a_rule_without_sense_is_refused(tmp_path: Path, rule: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"constraints\.0.*must have"):
        read_space(_write(tmp_path, [rule]), {})


def test_a_value_that_is_legal_with_some_others_is_accepted(tmp_path: Path) -> None:
    space = {
        "student.family": {"choice": ["conv", "token"]},
        "student.width": {"choice": [32, 40]},
        "student.num_heads": {"choice": [4, 5], "when": {"student.family": "token"}},
    }
    read_space(_write(tmp_path, [], **space), {})  # 5 heads divide 40


DIMENSIONS = {
    "student.family": Dimension(choice=("conv", "token")),
    "student.width": Dimension(int=(8, 40), step=4),
    "student.num_heads": Dimension(choice=(2, 3, 5), when={"student.family": "token"}),
    "distill.alpha": Dimension(float=(0.0, 1.0)),
}


def test_no_illegal_trial_passes_and_every_legal_one_does() -> None:
    """Against building each experiment anew, and the constraints written out in Python."""
    limits = ["student.width <= 32 or distill.alpha < 0.5", Rule(value="parameters", max=30_000)]
    legality = Legality(Builder(BASE, tuple(DIMENSIONS)), Constraints(limits, 4))
    rng, data = random.Random(0), BASE.model_dump(mode="json")
    found = []
    for _ in range(300):
        params = draw_params(DIMENSIONS, rng)
        try:
            student = build_experiment(data, params).student
        except InputError:
            expected = False
        else:
            count = count_parameters(build_student(student, 4, num_channels=80))
            small = params["student.width"] <= 32 or params["distill.alpha"] < 0.5
            expected = small and count <= 30_000
        found.append(expected)
        assert (legality.find_problem(params) is None) == expected, params
    assert 30 < sum(found) < 270


def test_a_broken_constraint_is_named_with_its_values() -> None:
    legality = Legality(Builder(BASE, tuple(DIMENSIONS)), Constraints(["student.width < 12"], 4))
    problem = legality.find_problem({"student.width": 16})
    assert problem == "must keep 'student.width < 12', got student.width = 16"


def test_built_experiments_equal_those_built_alone() -> None:
    builder, rng = Builder(BASE, tuple(DIMENSIONS)), random.Random(1)
    for _ in range(50):
        params = draw_params(DIMENSIONS, rng)
        if params["student.width"] % params.get("student.num_heads", 1) == 0:
            expected = build_experiment(BASE.model_dump(mode="json"), params)
            assert builder.build(params) == expected


def test_parameters_are_counted_and_latency_is_measured_without_a_trace() -> None:
    student = build_experiment({}, {"student.width": 32})
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    small, large = (
        measure_latency(build_experiment({}, {"student.width": w}), 4) for w in (16, 512)
    )
    assert 0 < small < large
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    model = build_student(student.student, 4, num_channels=80)
    assert count_student(student, 4) == sum(p.numel() for p in model.parameters())
    hears = build_experiment({}, {"student.input": "hidden", "student.width": 32})
    inside = count_parameters(Prefix(find_backbone("tiny-hubert"), 1))
    model = build_student(hears.student, 4, num_channels=64)
    assert count_student(hears, 4) == inside + count_parameters(model)


values = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True).map(tuple)


@given(first=values, second=values, third=values, data=st.data())
def test_a_grid_is_the_product_without_what_is_not_asked(
    first: tuple[int, ...], second: tuple[int, ...], third: tuple[int, ...], data: st.DataObject
) -> None:
    gates = data.draw(st.lists(st.sampled_from(first), min_size=1, unique=True))
    dimensions = {
        "a": Dimension(choice=first),
        "b": Dimension(choice=second, when={"a": gates}),
        "c": Dimension(choice=third),
    }
    expected = set()
    for a, b, c in itertools.product(first, second, third):
        expected.add((("a", a), *((("b", b),) if a in gates else ()), ("c", c)))
    cells = [tuple(cell.items()) for cell in list_cells(dimensions)]
    assert set(cells) == expected
    assert len(cells) == len(expected)
