"""The benchmarks of the engine and of sharing: that they run and what they refuse, not how fast."""

import json
from pathlib import Path

import pytest

from serkd.bench.__main__ import _NAMES, main

_SMALL = {
    "student.width": 16,
    "student.depth": 2,
    "teacher.start": "backbone",  # a teacher without units is shared all the same
    "teacher.stage2.fit.epochs": 1,
}


@pytest.mark.slow
def test_the_engine_and_tune_alone_run_as_many_trials(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep.json"
    options = ["--trials", "1", "--repeats", "1", "--records", "53", "--json", str(out)]
    assert main(["sweep", *options]) == 0
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert {name: len(seconds) for name, seconds in found["seconds"].items()} == {
        "Ray Tune alone": 1,
        "Ray Tune alone, no snapshots": 1,
        "serkd": 1,
    }
    assert "| 1 trivial trials |" in printed
    assert "53 records of a ledger replayed" in printed


@pytest.mark.slow
def test_shared_stages_are_computed_once_and_counted(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sharing.json"
    small = [word for key, value in _SMALL.items() for word in ("--set", f"{key}={value}")]
    options = ["--trials", "2", "--student-epochs", "1", *small, "--json", str(out)]
    assert main(["sharing", *options]) == 0
    found = json.loads(out.read_text())
    assert found["stages_computed"] == found["distinct_keys"]
    assert found["stage_requests"] > found["distinct_keys"]
    assert "| times faster |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep", "--trials", "0"), "--trials, --repeats, --records and --cpus must be 1 or more"),
        (("sharing", "--trials", "33"), "--trials must be from 1 to 32"),
    ],
)
def test_wrong_numbers_are_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", _NAMES)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([name, "--json", str(tmp_path / "file" / "numbers.json")]) == 2
    assert "--json must be where files can be written, not" in capsys.readouterr().err
