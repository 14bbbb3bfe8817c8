"""The benchmark of the teacher's lesson: that it runs and what it refuses. No time is asserted."""

import json
from pathlib import Path

import pytest

from serkd.bench.__main__ import main


def test_every_way_is_timed_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "meta.json"
    options = ["--batch-size", "2", "--seconds", "0.5", "--repeats", "1", "--json", str(out)]
    assert main(["meta", *options]) == 0
    seconds = json.loads(out.read_text())
    assert min(seconds.values()) > 0
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in seconds)
    assert {"student's step", "last 1 layer(s): gradient"} < seconds.keys()


@pytest.mark.parametrize("wrong", [["--repeats", "0"], ["--seconds", "0.1"]])
def test_wrong_numbers_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["meta", *wrong]) == 2
    assert "--seconds must be 0.5 or more" in capsys.readouterr().err
