"""The entry points below jobs/, one after the other on one storage, as a cluster runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import serkd

pytestmark = pytest.mark.slow

JOBS = Path(serkd.__file__).parent.parent / "jobs"


def _run(cwd: Path, job: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(JOBS / f"{job}.py"), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_features_teacher_sweep_and_test_build_on_each_other(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    storage, space = tmp_path / "storage", tmp_path / "space.yaml"
    searched = {"distill.alpha": {"float": [0.1, 0.9]}}
    space.write_text(
        json.dumps({"base": str(tiny_recipe), "scheduler": {"name": "none"}, "space": searched})
    )
    to = ("--storage", str(storage))
    out = tmp_path / "frames"
    about = json.loads(
        _run(tmp_path, "features", str(tiny_recipe), "--out", str(out), *to, "--json")
    )
    assert {stage["is_cached"] for stage in about["stages"]} == {False}
    ran = json.loads(_run(tmp_path, "teacher", str(tiny_recipe), *to, "--json"))
    stages = {stage["stage"]: stage["is_cached"] for stage in ran["folds"]["1"]["stages"]}
    assert stages["features 0"] is True  # of the job before
    swept = json.loads(_run(tmp_path, "sweep", str(space), *to, "--trials", "1", "--json"))
    assert [trial["state"] for trial in swept["trials"]] == ["finished"]
    assert swept["stages_computed"] == 1  # the student: the teacher is of the job before
    opened = json.loads(_run(tmp_path, "test", swept["folder"], "--json"))
    assert opened["look"]["number"] == 1


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.py")), ids=lambda path: path.stem)
def test_an_entry_point_is_a_command_and_says_what_is_wrong_with_its_arguments(path: Path) -> None:
    command = [sys.executable, str(path), "no-such-file", "--storage", "ftp://nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
