"""`serkd run --with-controls`: runs of their own, what they share, and how they are compared."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from serkd.cli import main
from serkd.config import Experiment
from serkd.errors import InputError
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.report import controls as controls_module
from serkd.report.compare import compare_runs
from serkd.report.controls import print_controls, run_with_controls
from serkd.report.export import export_teacher
from serkd.report.results import read_run
from serkd.report.sealed import open_test
from serkd.stages.context import Compute

Run = Any  # what the fixture of this folder gives
RUNS = ["recipe", "cross_entropy", "label_smoothing", "random_teacher", "twice_as_long"]


@pytest.fixture(scope="module")
def done(
    run: Run, tiny: Experiment, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Of a recipe whose plain distillation is itself; the run's storage has all but students."""
    storage = tmp_path_factory.mktemp("controls")
    shutil.copytree(run.storage / "stages", storage / "stages")
    recipe = build_experiment(tiny.model_dump(mode="json"), {"distill.supcon_weight": 0.0})
    with pytest.MonkeyPatch.context() as patch:  # in this process, without Ray
        patch.setattr("serkd.report.run.start_compute", lambda *given: Compute())
        return run_with_controls(recipe, "1", storage, "tiny", Observer())


def test_every_control_is_a_run_of_its_own_with_the_recipes_seed(
    done: tuple[dict[str, Any], dict[str, Any], Path], tiny: Experiment
) -> None:
    _, found, folder = done
    names = [Path(control["run"]).name for control in found["controls"]]
    assert [name.split("-")[1] for name in names] == [
        *("cross_entropy", "label_smoothing", folder.name.split("-")[1]),  # plain_kd is the recipe
        *("random_teacher", "twice_as_long"),
    ]
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, *names}
    for control in found["controls"]:
        finished = read_run(Path(control["run"]))
        assert finished.experiment.seed == tiny.seed
        without = control["name"] in ("cross_entropy", "label_smoothing")
        assert finished.models == (("student",) if without else ("teacher", "student"))


def test_controls_share_every_stage_that_they_do_not_change(
    done: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    _, found, _ = done
    computed = {
        control["name"]: {
            row["stage"]
            for row in read_run(Path(control["run"])).results["folds"]["1"]["stages"]
            if not row["is_cached"]
        }
        for control in found["controls"]
    }
    drawn = computed.pop("random_teacher")
    assert drawn == {"random_teacher", "teacher_outputs", "student"}
    assert all(stages == {"student"} for stages in computed.values())


def test_the_comparison_is_that_of_the_runs(
    done: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    results, found, folder = done
    assert json.loads((folder / "controls.json").read_text()) == found
    runs = {control["name"]: control["run"] for control in found["controls"]}
    expected = compare_runs(
        [str(folder), *(runs[name] for name in RUNS[1:])], "student", "dev", "uar", 0.01
    )
    for arm, name in zip(expected["arms"], RUNS, strict=True):
        arm["name"] = name
    assert found["comparison"] == expected
    arm = found["comparison"]["arms"][0]
    assert arm["mean"] == pytest.approx(results["pooled"]["student"]["dev"]["uar"])


def test_a_person_sees_the_table_and_what_was_not_run(
    done: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    _, found, folder = done
    out = io.StringIO()
    print_controls(Console(file=out, width=120), found, folder)
    assert "plain_kd is the same as recipe: not run again" in out.getvalue()
    for name in RUNS:
        assert name in out.getvalue()
    assert str(folder / "controls.json") in out.getvalue()


def test_a_control_can_be_tested_and_says_so_in_the_log(
    done: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    _, found, folder = done
    control = Path(found["controls"][0]["run"])
    tested = open_test(control, None)
    assert tested["models"] == ["student"]
    log = (folder.parent.parent / "test_log.jsonl").read_text(encoding="utf-8")
    assert control.name in log


def test_a_random_teacher_is_not_exported(
    done: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    """Nor the trained one, which the run's storage has too."""
    (control,) = (one for one in done[1]["controls"] if one["name"] == "random_teacher")
    with pytest.raises(InputError, match="must be a run with a trained teacher"):
        export_teacher(Path(control["run"]), tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_a_random_teacher_that_nobody_asks_is_refused(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ["--set", "distill.teacher=random", "--set", "distill.alpha=0.0"]
    options = ["--with-controls", "--storage", str(tmp_path / "s"), *settings]
    monkeypatch.setattr("sys.argv", ["serkd", "run", str(tiny_recipe), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "distill.teacher must be 'trained' when the student asks no" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_control_that_diverges_takes_no_other_with_it(
    done: tuple[dict[str, Any], dict[str, Any], Path],
    tiny: Experiment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that is stored is read; one control's training ends in NaN."""
    storage = done[2].parent.parent
    recipe = build_experiment(tiny.model_dump(mode="json"), {"distill.supcon_weight": 0.0})
    run_whole = controls_module.run_experiment

    def run(experiment: Experiment, *others: Any) -> Any:  # noqa: ANN401
        if experiment.distill.label_smoothing:
            raise FloatingPointError("student: loss and gradient must be finite")
        return run_whole(experiment, *others)

    monkeypatch.setattr(controls_module, "run_experiment", run)
    monkeypatch.setattr("serkd.report.run.start_compute", lambda *given: Compute())
    _, found, folder = run_with_controls(recipe, "1", storage, "tiny", Observer())
    lost = {control["name"]: control["failed"] for control in found["controls"]}
    assert lost.pop("label_smoothing") == "student: loss and gradient must be finite"
    assert not any(lost.values())
    assert json.loads((folder / "controls.json").read_text()) == found
    names = [arm["name"] for arm in found["comparison"]["arms"]]
    assert names == [name for name in RUNS if name != "label_smoothing"]
    out = io.StringIO()
    print_controls(Console(file=out, width=200), found, folder)
    assert "label_smoothing failed: student: loss" in out.getvalue()
