"""Reports: what they say of known outcomes, and that names of users cannot break them."""

import itertools
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from planted import NAMES, Planted, look_at, planted_study, run_planted
from scipy import stats

from serkd import config
from serkd.files import write_json
from serkd.report.answer import TESTED
from serkd.report.answer_figures import draw_forest, draw_matrices
from serkd.report.arm_table import choose_rectangle
from serkd.report.charts import find_ticks, scatter_chart
from serkd.report.effects import describe_factors, find_pareto
from serkd.report.latex import _line as latex_line
from serkd.report.latex import escape as latex_escape
from serkd.report.ledger_facts import count_costs, describe_training
from serkd.report.published import compare_published
from serkd.search.designs import Study

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b `c` **d** [e](javascript:f)",
    r"\input{x} $y$ 100% a_b #1 {z} ^ ~ &",
    "\"><img src=x onerror='y'>",
]


class _Reader(HTMLParser):
    """Tags, and text; refuses tags that are not closed as they were opened."""

    VOID = frozenset({"meta", "br", "circle", "line", "polyline", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report folder of arms and a question with such names."""
    arms = {name: {"student.width": 200 + i} for i, name in enumerate(HOSTILE)}
    folder = tmp_path_factory.mktemp("hostile") / "x"
    file = {"design": "list", "arms": arms, "question": HOSTILE[0]}
    run_planted(file, Planted({("student.width", 201): 0.1}), folder, 3)
    return folder / "report"


def test_names_are_text_in_the_page(hostile: Path) -> None:
    reader = _Reader()
    reader.feed((hostile / "report.html").read_text(encoding="utf-8"))
    assert reader.open == []
    assert not reader.tags & {"script", "img", "a", "link", "iframe"}
    assert not [name for name in reader.attributes if name.startswith("on")]
    text = " ".join(reader.text)
    assert all(name in text for name in HOSTILE)
    assert not reader.attributes & {"src", "href", "srcset"}  # nothing is fetched


def test_names_are_text_in_markdown(hostile: Path) -> None:
    text = (hostile / "report.md").read_text(encoding="utf-8")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert tables
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table
    assert not re.search(r"(?<!\\)[<`*\[]", text.replace("**Partial", ""))


def test_names_are_text_in_latex(hostile: Path) -> None:
    text = (hostile / "report.tex").read_text(encoding="utf-8")
    assert r"\input" not in text
    bare = re.sub(r"\\[\\{}$&#_%]", "", text)
    assert bare.count("{") == bare.count("}")
    rows = [line for line in bare.splitlines() if line.count("&") > 2]
    assert rows
    assert not re.search(r"[#_~^]", "".join(rows))
    assert bare.count("$") % 2 == 0


def test_every_letter_of_latex_has_its_escape() -> None:
    assert latex_escape(r"\{}$&#_%~^") == (
        r"\textbackslash{}\{\}\$\&\#\_\%\textasciitilde{}\textasciicircum{}"
    )


@pytest.mark.parametrize("seed", range(8))
def test_every_point_of_a_scatter_has_a_label_that_lies_on_no_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, shares = rng.choice([3e5, 3.1e5, 9e5, 1e6], 14), rng.uniform(0.58, 0.62, 14)
    points = [(x, y, f"p{i}", False) for i, (x, y) in enumerate(zip(sizes, shares, strict=True))]
    chart = scatter_chart(points, "parameters", "UAR, percent", "about")
    pattern = r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(start|end)">(p\d[^<]*)</text>'
    labels = [(float(x), float(y), s, text) for x, y, s, text in re.findall(pattern, chart)]
    places = [
        (x if side == "start" else x - 6 * len(text), 6 * len(text), y)
        for x, y, side, text in labels
    ]
    assert len(labels) > 1
    for (x, width, y), (other_x, other_width, other_y) in itertools.combinations(places, 2):
        apart = x + width <= other_x or other_x + other_width <= x
        assert apart or abs(y - other_y) >= 10, labels
    told = [name for *_, text in labels for name in text.split(", ")]
    assert "…" in told or sorted(told) == sorted(f"p{i}" for i in range(14))


def test_dashes_options_and_minus_signs_differ_in_latex() -> None:
    assert latex_line(("24–30", "-2.0 [-4.1, +1]", "--row 3")) == (
        r"24--30 & $-$2.0 {[}$-$4.1, +1{]} & -{}-row 3 \\"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_sets_the_tables_within_the_width_of_the_text(hostile: Path, tmp_path: Path) -> None:
    text = (hostile / "report.tex").read_text(encoding="utf-8")
    packages = text.splitlines()[0].removeprefix("% ")
    (tmp_path / "tables.tex").write_text(text, encoding="utf-8")
    paper = (
        rf"\documentclass{{article}}{packages}\begin{{document}}\input{{tables}}\end{{document}}"
    )
    (tmp_path / "paper.tex").write_text(paper, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    log = (tmp_path / "paper.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-2_000:]
    assert (tmp_path / "paper.pdf").is_file()
    assert "Overfull" not in log, log


def test_the_figures_are_there_as_png_and_pdf(hostile: Path) -> None:
    for name in ("forest", "confusion", "pareto", "curves"):
        assert (hostile / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (hostile / "figures" / f"{name}.pdf").read_bytes()[:4] == b"%PDF"


def test_main_effects_of_a_factorial_are_its_marginal_means(tmp_path: Path) -> None:
    """Without noise, levels differ by what was planted, whatever the other factor is."""
    factors = {"student.width": [100, 200], "student.depth": [2, 4]}
    file = {"design": "factorial", "factors": factors, "set": {"student.width": 100}}
    study: Study = planted_study(file)
    assert len(study.arms) == 5  # the base is none of the combinations
    effects = {("student.width", 200): 0.05, ("student.depth", 4): 0.1}
    source = Planted(effects, fold_sd=0, arm_sd=0, seed_sd=0, utterances=20_000)
    report = run_planted(file, source, tmp_path / "x", 3)
    found = {f["name"]: f for f in report["factors"]}
    assert list(found) == ["student.depth", "student.width"]  # the largest first
    assert found["student.depth"]["importance"] == pytest.approx(0.1, abs=0.005)
    assert found["student.width"]["importance"] == pytest.approx(0.05, abs=0.005)
    arms = {a["name"]: a["mean"] for a in report["comparison"]["arms"]}
    narrow = [value for name, value in arms.items() if "student.width = 100" in name]
    level = next(e for e in found["student.width"]["levels"] if e["level"] == "100")
    assert level["mean"] == pytest.approx(np.mean(narrow), abs=1e-12)


def test_a_main_effect_is_tested_on_the_arms_that_differ_in_it_alone(tmp_path: Path) -> None:
    """Against the same sums by hand."""
    factors = {"student.width": [100, 200, 300], "student.depth": [2, 4]}
    file = {
        "design": "factorial",
        "factors": factors,
        "reference": "student.width = 100, student.depth = 2",
    }
    source = Planted({("student.width", 200): 0.04}, arm_sd=0.02)
    report = run_planted(file, source, tmp_path / "x", 6)
    arms = {arm["name"]: arm for arm in report["comparison"]["arms"]}
    value = {name: np.array(list(arm["by_fold"].values())) for name, arm in arms.items()}
    ratio = next(a["against_reference"]["test_to_train"] for a in [*arms.values()][1:])
    effects, by_hand = [], []
    for factor in report["factors"]:
        assert "against_first" not in factor["levels"][0]
        for level in factor["levels"][1:]:
            new, old = (
                f"{factor['name']} = {each['level']}" for each in (level, factor["levels"][0])
            )
            pairs = np.mean(
                [v - value[n.replace(new, old)] for n, v in value.items() if new in n], 0
            )
            error = np.sqrt(pairs.var(ddof=1) * (1 / len(pairs) + ratio))
            found = level["against_first"]
            effects.append(found)
            by_hand.append(2 * stats.t.sf(abs(pairs.mean()) / error, len(pairs) - 1))
            half = stats.t.ppf(0.975, len(pairs) - 1) * error
            assert found["difference"] == pytest.approx(pairs.mean())
            assert found["interval"] == pytest.approx([pairs.mean() - half, pairs.mean() + half])
    assert [effect["p"] for effect in effects] == pytest.approx(by_hand)
    holm = [
        min(1, max(q * sum(r >= q for r in by_hand) for q in by_hand if q <= p)) for p in by_hand
    ]
    assert [effect["holm_p"] for effect in effects] == pytest.approx(holm)
    text = (tmp_path / "x" / "report" / "report.md").read_text(encoding="utf-8")
    assert all(f"| {100 * effect['difference']:+.1f} \\[" in text for effect in effects)


def test_one_at_a_time_a_key_is_held_against_the_reference_and_no_control(tmp_path: Path) -> None:
    """Controls say nothing of any key, as the reference does: they must not pass for it."""
    factors = {"student.width": [200], "student.depth": [2]}
    file = {"design": "oat", "factors": factors, "controls": True}
    longer = 2 * config.Experiment().student.fit.epochs
    effects = {("student.width", 200): 0.02, ("student.fit.epochs", longer): 0.2}
    source = Planted(effects, fold_sd=0, arm_sd=0, seed_sd=0, utterances=20_000)
    report = run_planted(file, source, tmp_path / "x", 3)
    arms = {arm["name"]: arm["mean"] for arm in report["comparison"]["arms"]}
    assert arms["control twice_as_long"] > 0.85
    for factor in report["factors"]:
        first, level = factor["levels"]
        assert (first["level"], first["mean"]) == ("base", pytest.approx(arms["reference"]))
        own = arms[f"{factor['name']} = {level['level']}"]
        assert level["mean"] == pytest.approx(own)
    assert [factor["name"] for factor in report["factors"]] == [*factors]


def test_without_the_reference_no_other_arm_stands_for_it() -> None:
    found = {("1", 0): 6, ("2", 0): 6}
    reference = {**_arm({}, {}), "mean": None}
    arms = [reference, _arm({"a": "x"}, found), _arm({"b": "x"}, found)]
    assert describe_factors(arms, "uar") == []
    assert [f["name"] for f in describe_factors([_arm({}, found), *arms[1:]], "uar")] == ["a", "b"]


def test_arms_that_differ_in_the_ends_of_their_names_are_told_apart(tmp_path: Path) -> None:
    """A factorial's do; a figure that cut them short would show two arms as one."""
    names = [
        f"a factor that has a long name = {x}, and a second one of those = {y}"
        for x in (1, 2)
        for y in (1, 2)
    ]
    arms = {name: {"student.width": 100 + i} for i, name in enumerate(names)}
    file = {"design": "list", "arms": arms, "reference": names[0]}
    report = run_planted(file, Planted({}), tmp_path / "x", 3)
    shown = [text.get_text().replace("\n", " ") for text in _texts(draw_forest(report))]
    assert {*names[1:]} <= {*shown}
    titles = [ax.get_title().replace("\n", " ") for ax in _axes(draw_matrices(report))]
    assert titles == names


def _axes(figure: Figure | None) -> list[Axes]:
    assert figure is not None
    return figure.axes


def _texts(figure: Figure | None) -> list[Text]:
    return [text for ax in _axes(figure) for text in ax.get_yticklabels()]


def _point(i: int, mean: float, parameters: int, latency: float) -> dict[str, Any]:
    costs = {"parameters": parameters, "macs": 1e6, "latency_ms": latency}
    return {"name": str(i), "row": i, "mean": mean, **costs}


def test_the_front_is_what_no_other_beats_in_everything() -> None:
    rng = np.random.default_rng(3)
    points = [
        _point(i, round(float(rng.random()), 1), int(rng.integers(1, 5)), float(rng.integers(1, 4)))
        for i in range(40)
    ]
    found = {p["row"]: p["is_on_front"] for p in find_pareto(points)}
    for one in points:
        better = [
            o
            for o in points
            if o["mean"] >= one["mean"]
            and o["parameters"] <= one["parameters"]
            and o["latency_ms"] <= one["latency_ms"]
            and (o["mean"], -o["parameters"], -o["latency_ms"])
            != (one["mean"], -one["parameters"], -one["latency_ms"])
        ]
        assert found[one["row"]] == (not better)


def test_an_arm_without_a_value_has_no_factor() -> None:
    arms = [{"levels": {"a": "1"}, "mean": None}, {"levels": {"a": "2"}, "mean": None}]
    assert describe_factors(arms, "uar") == []


def _arm(levels: Mapping[str, str], hits: Mapping[tuple[str, int], int]) -> dict[str, Any]:
    """An arm with that many of ten utterances right in each class, by fold and seed."""
    cells: list[dict[str, Any]] = [
        {
            "fold": fold,
            "seed": seed,
            "is_done": True,
            "confusions": [[[n, 10 - n], [10 - n, n]]],
        }
        for (fold, seed), n in hits.items()
    ]
    waiting = {"fold": "9", "seed": 9, "is_done": False}
    return {"levels": levels, "mean": 0.5, "cells": [*cells, waiting]}


def test_levels_of_an_unfinished_factorial_are_compared_on_what_all_arms_have_finished() -> None:
    """Fold 3 and seed 1 are easy: arms that have them already are not better for it."""
    base = {("1", 0): 4, ("2", 0): 5}
    easy = {("3", 0): 9, ("1", 1): 9}
    arms = [
        _arm({"a": "x", "b": "x"}, {**base, **easy}),
        _arm({"a": "x", "b": "y"}, {**base, **easy, ("1", 0): 5}),
        _arm({"a": "y", "b": "x"}, {**base, **easy, ("1", 0): 8}),
        _arm({"a": "y", "b": "y"}, {**base, ("1", 0): 6}),
    ]
    a, b = describe_factors(arms, "uar")
    assert [(level["level"], level["num_arms"]) for level in a["levels"]] == [("x", 2), ("y", 2)]
    x, y = a["levels"]
    assert x["by_fold"] == pytest.approx({"1": 0.45, "2": 0.5})
    assert y["by_fold"] == pytest.approx({"1": 0.7, "2": 0.5})
    assert [x["mean"], y["mean"], a["importance"]] == pytest.approx([0.475, 0.6, 0.125])
    assert b["importance"] == pytest.approx(0.025)
    alone = _arm({"a": "y", "b": "y"}, {("4", 0): 9})
    assert describe_factors([*arms[:3], alone], "uar") == []


def test_what_sharing_saved_is_what_was_asked_for_again() -> None:
    outcomes = [{"stages": [["teacher", "t1", 10.0], ["student", f"s{i}", 2.0]]} for i in range(3)]
    outcomes.append({"stages": [["teacher", "t2", 8.0], ["student", "s9", 1.0]]})
    total = count_costs(outcomes)["total"]
    assert (total["requests"], total["distinct"]) == (8, 6)
    assert (total["seconds"], total["seconds_unshared"]) == (25.0, 45.0)


def test_the_rectangle_is_the_largest_that_is_complete() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        pairs = {(str(f), s) for f in range(4) for s in range(3) if rng.random() < 0.7}
        folds, seeds = choose_rectangle(pairs)
        assert all(pair in pairs for pair in itertools.product(folds, seeds))
    everything = set(itertools.product("123", (0, 1)))
    assert choose_rectangle(everything) == (["1", "2", "3"], [0, 1])
    assert choose_rectangle(everything - {("3", 1)}) == (["1", "2"], [0, 1])
    assert choose_rectangle({("1", 0), ("2", 0), ("2", 1)}) == (["1", "2"], [0])
    assert choose_rectangle(set()) == ([], [])


def test_what_was_seen_of_test_is_shown_of_arms_that_are_what_they_were(tmp_path: Path) -> None:
    arms = {"wide": {"student.width": 200}, "deep": {"student.depth": 6}}
    file = {"design": "list", "arms": arms}
    report = run_planted(file, Planted({}), tmp_path, 3)
    assert report["test"] is None
    opened = look_at(tmp_path)
    seen = {**report["comparison"], "split": "test", "look": "look 1", "opened": opened}
    write_json(tmp_path / TESTED, seen)

    def shown(file: Mapping[str, Any]) -> list[str] | None:
        test = run_planted(file, Planted({}), tmp_path, 3)["test"]
        return test and [arm["name"] for arm in test["arms"]]

    assert shown(file) == ["reference", "wide", "deep"]
    wider = {"design": "list", "arms": {**arms, "wide": {"student.width": 300}}}
    assert shown(wider) == ["reference", "deep"]
    assert shown({**file, "seeds": [1]}) is None  # nor is its reference
    assert shown(file) == ["reference", "wide", "deep"]  # nothing was lost


def _stamped(**changes: object) -> dict[str, Any]:
    stamp = {
        "corpora": ["iemocap"],
        "class_names": ["ang", "hap", "neu", "sad"],
        "num_utterances": 5531,
        "protocol": "leave_one_session_out",
        "all_folds": [*"12345"],
        "shares_speakers": False,
        **changes,
    }
    return {"stamp": stamp, "test": {"folds": [*"12345"]}}


def test_published_results_stand_beside_ours_only_where_all_is_alike() -> None:
    found = compare_published(_stamped())
    systems = {row["system"] for row in found["rows"]}
    assert {"emotion2vec", "Vesper-12", "P-TAPT (wav2vec 2.0-base)"} <= systems
    # whose protocols nobody could verify
    assert {r["system"] for r in found["refusals"]} == {"KD-SER", "GMP-TL"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": "leave_one_speaker_out"}, "its protocol is leave_one_session_out"),
        ({"class_names": [*NAMES, "fear"]}, "it has 4 classes, ours 5"),
        ({"num_utterances": 5000}, "5,531 utterances"),
        ({"shares_speakers": True}, "shares speakers"),
        ({"corpora": ["iemocap", "meld"]}, "2 corpora"),
        ({"all_folds": [*"123456"]}, "5 of 6 folds"),
        ({"corpora": ["ravdess"]}, "no published result on ravdess"),
        (
            {"corpora": ["meld"], "class_names": [*"1234567"], "all_folds": [*"12345"]},
            "it has 13,706 utterances, ours 5,531",
        ),
    ],
)
def test_other_data_or_protocols_are_refused(changes: dict[str, Any], why: str) -> None:
    found = compare_published(_stamped(**changes))
    assert found["rows"] == []
    assert any(why in refusal["why"] for refusal in found["refusals"])


def test_dev_is_never_compared_with_print() -> None:
    found = compare_published({**_stamped(), "test": None})
    assert found["rows"] == []
    assert all("dev" in refusal["why"] for refusal in found["refusals"])


def test_ticks_are_round_and_hold_the_range() -> None:
    rng = np.random.default_rng(1)
    for low, width in rng.random((200, 2)):
        ticks = find_ticks(low, low + width)
        assert ticks[0] <= low + 1e-9
        assert ticks[-1] >= low + width - 1e-9
        assert 2 <= len(ticks) <= 8
        steps = np.diff(ticks)
        assert np.allclose(steps, steps[0])


def test_a_model_that_is_made_in_no_epochs_was_not_stopped_too_early() -> None:
    probe = {"curve": [{"epoch": 0, "dev_uar": 0.7}], "max_epochs": 0}
    late = {"curve": [{"epoch": n, "dev_uar": n / 10} for n in (1, 2, 3)], "max_epochs": 3}
    cells = {("1", 0): probe}, {("1", 0): late}
    made, trained = describe_training({"probe": cells[0], "fine-tuned": cells[1]})
    assert (made["curve"], made["num_late"]) == ([], 0)
    assert (trained["curve"], trained["num_late"]) == ([0.1, 0.2, 0.3], 1)
