"""`serkd compare` on folders with files of predictions: numbers, verdicts, refusals."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import NAMES, Rows, draw_rows, write_run
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from serkd.cli import main
from serkd.errors import InputError
from serkd.report.bootstrap import bootstrap_difference, speaker_confusions
from serkd.report.compare import compare_runs
from serkd.report.statistics import (
    corrected_t_test,
    equivalence_p,
    holm,
    paired_effect,
    sign_flip_p,
)
from serkd.report.variance import smallest_detectable, variance_components

RATIO = 48 / (48 * 4)  # one fold of six judges, four train


def _compare(*runs: Path | str, metric: str = "uar", **options: Any) -> dict[str, Any]:  # noqa: ANN401
    settings = {"model": None, "split": "dev", "margin": 0.01, **options}
    return compare_runs([str(run) for run in runs], metric=metric, **settings)


def _scikit(rows: Rows, metric: str) -> float:
    truth, said = ([row[name] for row in rows] for name in ("emotion", "predicted"))
    if metric == "uar":
        return float(balanced_accuracy_score(truth, said))
    if metric == "war":
        return float(accuracy_score(truth, said))
    return float(f1_score(truth, said, average="weighted", zero_division=0))


def _by_fold(rows: Rows, metric: str) -> np.ndarray:
    folds: dict[str, Rows] = defaultdict(list)
    for row in rows:
        folds[row["fold"]].append(row)
    return np.array([_scikit(part, metric) for part in folds.values()])


def _count_speakers(rows: Rows) -> np.ndarray:
    names = sorted({row["speaker_id"] for row in rows})
    columns = [
        np.array([values.index(row[name]) for row in rows])
        for name, values in (("emotion", NAMES), ("predicted", NAMES), ("speaker_id", names))
    ]
    return speaker_confusions(*columns, len(names), 4)


@pytest.mark.parametrize("metric", ["uar", "war", "wf1"])
def test_numbers_are_those_of_the_statistics_on_scikit_learns_metrics(
    metric: str, tmp_path: Path
) -> None:
    """Three arms; the reference has two seeds."""
    rows = {name: draw_rows(0.6, i) for i, name in enumerate(("a1", "a2", "c"))}
    rows["b"] = draw_rows(0.85, 7)
    for seed, name in enumerate(rows):
        write_run(tmp_path / name, rows[name], settings={"seed": seed})
    runs = (f"{tmp_path / 'a1'},{tmp_path / 'a2'}", tmp_path / "b", tmp_path / "c")
    found = _compare(*runs, metric=metric)
    reference, b, c = found["arms"]
    assert reference["name"] == "a1 and 1 more"
    assert reference["seeds"] == [0, 1]
    assert "against_reference" not in reference
    values = np.array([_by_fold(rows[name], metric) for name in ("a1", "a2")])
    assert list(reference["by_fold"].values()) == pytest.approx(values.mean(axis=0), abs=1e-12)
    assert reference["mean"] == pytest.approx(values.mean(), abs=1e-12)
    assert reference["sd"] == pytest.approx(values.mean(axis=0).std(ddof=1), abs=1e-12)
    pooled = np.mean([_scikit(rows[name], metric) for name in ("a1", "a2")])
    assert reference["pooled"] == pytest.approx(pooled, abs=1e-12)
    components = variance_components(values)
    assert reference["components"]["fold_sd"] ** 2 == pytest.approx(components.fold, abs=1e-12)
    assert b["components"] is None
    p_values = []
    for arm, name in ((b, "b"), (c, "c")):
        test, d = arm["against_reference"], _by_fold(rows[name], metric) - values.mean(axis=0)
        expected = corrected_t_test(d, RATIO)
        p_values.append(expected.p)
        assert test["difference"] == pytest.approx(d.mean(), abs=1e-12)
        assert test["fold_test"]["interval"] == pytest.approx([expected.low, expected.high])
        assert test["fold_test"]["p"] == test["p"] == pytest.approx(expected.p)
        assert test["sign_flip_p"] == sign_flip_p(d)
        assert test["effect"] == pytest.approx(paired_effect(d))
        assert test["equivalence_p"] == pytest.approx(equivalence_p(expected, 0.01))
        detectable = smallest_detectable(float(d.std(ddof=1)), 0.0, 6, 1, RATIO)
        assert test["detectable"] == pytest.approx(detectable)
        counts = np.stack([_count_speakers(rows[n]) for n in ("a1", "a2")])
        by_speaker = bootstrap_difference(_count_speakers(rows[name])[None], counts, metric)
        assert test["speaker_interval"] == pytest.approx(by_speaker.interval(), abs=1e-12)
        assert test["pooled_difference"] == pytest.approx(by_speaker.value, abs=1e-12)
        assert test["pooled_difference"] == pytest.approx(arm["pooled"] - pooled, abs=1e-12)
    adjusted = [arm["against_reference"]["holm_p"] for arm in (b, c)]
    assert adjusted == pytest.approx(holm(p_values))
    assert found["test_to_train"] == RATIO
    assert (found["num_speakers"], found["num_utterances"]) == (12, 288)


def test_without_overlap_of_training_p_is_the_paired_t_test(tmp_path: Path) -> None:
    huge = {str(i): 10**12 for i in range(1, 7)}
    rows = [draw_rows(0.6, 0), draw_rows(0.7, 1)]
    runs = [write_run(tmp_path / str(i), r, num_train=huge) for i, r in enumerate(rows)]
    test = _compare(*runs)["arms"][1]["against_reference"]
    expected = stats.ttest_rel(_by_fold(rows[1], "uar"), _by_fold(rows[0], "uar"))
    assert test["p"] == pytest.approx(expected.pvalue, abs=1e-6)


def test_verdicts_of_better_worse_and_the_same(tmp_path: Path) -> None:
    rows = draw_rows(0.55, 0)
    same = [dict(row, logits=[0.0] * 4) for row in rows]
    drawn = {"ref": rows, "better": draw_rows(0.95, 1), "worse": draw_rows(0.2, 2), "same": same}
    runs = [write_run(tmp_path / name, each) for name, each in drawn.items()]
    found = _compare(*runs)
    verdicts = [arm["against_reference"]["verdict"] for arm in found["arms"][1:]]
    assert verdicts == ["helps", "hurts", "equivalent"]
    assert found["smallest_sign_flip_p"] == 1 / 32
    assert not [note for note in found["notes"] if "no exact test" in note]


def test_five_pairs_are_too_few_for_an_exact_test_and_it_says_so(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / str(i), draw_rows(skill, i, num_folds=5), num_folds=5)
        for i, skill in enumerate((0.5, 0.95))
    ]
    found = _compare(*runs)
    assert found["arms"][1]["against_reference"]["sign_flip_p"] == 0.0625
    assert found["notes"][0] == (
        "with 5 pairs no exact test can reach p < 0.05: the smallest possible is 0.0625"
    )


def test_one_fold_is_judged_by_its_speakers(tmp_path: Path) -> None:
    size = {"num_folds": 1, "speakers": 12}
    runs = [
        write_run(tmp_path / str(i), draw_rows(skill, i, **size))
        for i, skill in enumerate((0.4, 0.9))
    ]
    found = _compare(*runs)
    test = found["arms"][1]["against_reference"]
    assert test["fold_test"] == {"t": None, "p": None, "interval": [None, None]}
    assert test["p"] < 0.01
    assert test["verdict"] == "helps"
    assert "one fold: there is nothing to pair" in found["notes"][0]
    lone = [
        write_run(tmp_path / f"lone{i}", draw_rows(skill, i, num_folds=1, speakers=1))
        for i, skill in enumerate((0.2, 0.95))
    ]
    alone = _compare(*lone)
    assert alone["arms"][1]["against_reference"]["speaker_interval"] == [None, None]
    assert alone["arms"][1]["against_reference"]["verdict"] == "undecided"
    assert any("one speaker" in note for note in alone["notes"])


def test_folds_are_in_the_protocols_order_whatever_the_files_is(tmp_path: Path) -> None:
    rows = draw_rows(0.6, 0, num_folds=11)
    first = write_run(tmp_path / "first", rows, num_folds=11)
    second = write_run(tmp_path / "second", rows[::-1], num_folds=11)
    found = _compare(first, second)
    assert found["folds"] == [str(i) for i in range(1, 12)]
    reference, other = found["arms"]
    assert reference["by_fold"] == other["by_fold"]
    assert list(reference["by_fold"].values()) == pytest.approx(_by_fold(rows, "uar"))


def test_the_model_is_the_student_where_all_have_one(tmp_path: Path) -> None:
    both = draw_rows(0.6, 0) + draw_rows(0.8, 1, model="teacher")
    first, second = write_run(tmp_path / "a", both), write_run(tmp_path / "b", both)
    taught = write_run(tmp_path / "c", draw_rows(0.7, 2, model="teacher"))
    assert _compare(first, second)["model"] == "student"
    assert _compare(first, second, model="teacher")["arms"][0]["mean"] == pytest.approx(
        _by_fold(both[288:], "uar").mean()
    )
    assert _compare(first, taught)["model"] == "teacher"
    with pytest.raises(InputError, match="every run must have the student: c has teacher"):
        _compare(first, taught, model="student")


def test_test_is_compared_only_where_it_was_opened(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, draw_rows(0.6, i)) for i, name in enumerate("ab")]
    with pytest.raises(InputError, match=r"a: must have test_predictions\.parquet.*serkd test"):
        _compare(*runs, split="test")
    for run in runs:
        write_run(run, draw_rows(0.5, 9), split="test")
    found = _compare(*runs, split="test")
    assert found["arms"][0]["pooled"] == pytest.approx(_scikit(draw_rows(0.5, 9), "uar"))
    assert not [note for note in found["notes"] if note.startswith("dev")]


def _moved(rows: Rows, **changes: str) -> Rows:
    return [{**rows[0], **changes}, *rows[1:]]


@pytest.mark.parametrize(
    ("facts", "rows", "said"),
    [
        ({"corpus_hash": "d" * 64}, None, r"b: must have the corpus \(utterances and their"),
        ({"protocol": "official"}, None, "protocol of .*a: speaker_kfold, got official"),
        ({"folds_hash": "e" * 64}, None, "must have the folds .* of .*a: ffffffffffffffffffff,"),
        ({"class_names": ["x", "y"]}, None, "emotions of .*a: angry, happy.*, got x, y"),
        ({}, draw_rows(0.5, 1, num_folds=2), "the folds that .*a ran: 1, 2, 3, 4, 5, 6, got 1, 2"),
        ({}, draw_rows(0.5, 1)[1:], "must have predicted the utterances of .*a, of the same"),
        ({}, _moved(draw_rows(0.5, 1), emotion="sad"), "same speakers and with the same labels"),
        ({}, _moved(draw_rows(0.5, 1), speaker_id="x"), "of the same speakers"),
    ],
)
def test_runs_on_other_data_are_refused_and_it_says_which(
    facts: dict[str, Any], rows: Rows | None, said: str, tmp_path: Path
) -> None:
    first = write_run(tmp_path / "a", _moved(draw_rows(0.5, 0), emotion="angry"))
    other = write_run(tmp_path / "b", rows or _moved(draw_rows(0.5, 1), emotion="angry"), **facts)
    with pytest.raises(InputError, match=said):
        _compare(first, other)


def test_runs_of_an_arm_must_differ_in_their_seed_and_in_nothing_else(tmp_path: Path) -> None:
    def write(name: str, settings: dict[str, Any]) -> Path:
        return write_run(tmp_path / name, draw_rows(0.5, 1), settings=settings)

    first, again = write("a", {}), write("again", {})
    wide = write("wide", {"seed": 1, "student": {"width": 32}})
    moved = write("moved", {"seed": 2, "corpus": {"manifest": "elsewhere.parquet"}})
    with pytest.raises(InputError, match=r"those of a and 1 more differ in student\.width"):
        _compare(f"{first},{wide}", moved)
    with pytest.raises(InputError, match=r"must have seeds of their own, .* has \[0, 0\]"):
        _compare(f"{first},{again}", moved)
    assert _compare(f"{first},{moved}", wide)["arms"][0]["seeds"] == [0, 2]


def test_a_run_is_named_once_and_names_that_are_not_unique_are_given_whole(tmp_path: Path) -> None:
    first = write_run(tmp_path / "x" / "run", draw_rows(0.5, 1))
    other = write_run(tmp_path / "y" / "run", draw_rows(0.5, 2))
    with pytest.raises(InputError, match=r"every run must be named once, repeated: .*x/run"):
        _compare(first, other, tmp_path / "y" / ".." / "x" / "run")
    assert [arm["name"] for arm in _compare(first, other)["arms"]] == [str(first), str(other)]
    comma = write_run(tmp_path / "with,comma", draw_rows(0.5, 3))
    assert _compare(first, comma)["arms"][1]["name"] == "with,comma"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "f1"}, "--metric must be one of uar, war, wf1, got 'f1'"),
        ({"split": "train"}, "--split must be one of dev, test, got 'train'"),
        ({"model": "both"}, "--model must be one of teacher, student, got 'both'"),
        ({"margin": 0.0}, "--margin must be between 0 and 1"),
        ({"margin": float("nan")}, "--margin must be between 0 and 1"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        _compare(tmp_path, tmp_path / "b", **options)


def _serkd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[str, str, int]:
    monkeypatch.setattr(sys, "argv", ["serkd", "compare", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return said.out, said.err, code


def test_the_command_prints_two_tables_or_json_and_writes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(tmp_path / f"[b]arm{i}", draw_rows(s, i)) for i, s in enumerate((0.55, 0.95))]
    file = tmp_path / "found.json"
    out, _, code = _serkd(monkeypatch, capsys, *runs, "--out", file)
    assert code == 0
    found = json.loads(file.read_text())
    assert found == _compare(*runs)
    test = found["arms"][1]["against_reference"]
    low, high = test["speaker_interval"]
    for cell in (
        "[b]arm0",
        "[b]arm1",
        f"{100 * found['arms'][0]['mean']:.1f} ± {100 * found['arms'][0]['sd']:.1f}",
        f"{100 * test['pooled_difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
        f"{test['p']:.4f}",
        "(least 0.0312)",
        "helps",
        "note: dev also chose the epochs",
    ):
        assert cell in out
    out, _, _ = _serkd(monkeypatch, capsys, *runs, "--json")
    assert json.loads(out) == found


def test_the_command_refuses_with_exit_code_2_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", draw_rows(0.5, 0))
    file = tmp_path / "found.json"
    _, err, code = _serkd(monkeypatch, capsys, first, tmp_path / "none", "--out", file)
    assert (code, err.count("\n")) == (2, 1)
    assert "none: must be the folder of a run, there is none" in err
    assert not file.exists()
