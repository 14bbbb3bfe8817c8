"""The benchmark of students: that it runs and what it refuses. No time is asserted."""

import json
from pathlib import Path

import pytest

from serkd.bench.__main__ import main
from serkd.config.student import SHAPES


def test_every_student_is_measured_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student.json"
    options = ["--seconds", "0.3", "--repeats", "1", "--utterances", "3", "--teacher-layers", "1"]
    assert main(["student", *options, "--json", str(out)]) == 0
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    for name, one in found["costs"].items():
        (row,) = [line for line in printed.splitlines() if line.startswith(f"| {name} |")]
        assert float(row.split("|")[-2]) == pytest.approx(one["seconds"] / 0.3, abs=1e-4)  # RTF
    for what in ("training", "evaluation"):
        assert all(f"| {what}, {way} |" in printed for way in found[what])
        assert min(found[what].values()) > 0
    teacher, *students = found["costs"].values()
    assert len(students) == sum(map(len, SHAPES.values()))
    assert all(0 < one["macs"] < teacher["macs"] and one["seconds"] > 0 for one in students)


@pytest.mark.parametrize("wrong", [["--repeats", "0"], ["--seconds", "0"]])
def test_wrong_numbers_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["student", *wrong]) == 2
    assert f"{wrong[0]}" in capsys.readouterr().err
