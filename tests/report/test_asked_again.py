"""An ablation that is asked for in parts, and on a corpus that has changed since."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted import Planted, facts, look_at, planted_study

from serkd.errors import SweepError
from serkd.files import write_json
from serkd.report.ablate import collect, run_study
from serkd.report.answer import TESTED, read_plan, write_report
from serkd.report.asked import planned_cells
from serkd.report.run_blocks import test_block as show_test
from serkd.search.designs import Study

WIDTHS = (200, 256, 300)
FILE = {"design": "list", "arms": {f"w{w}": {"student.width": w} for w in WIDTHS}, "seeds": [0, 1]}
EFFECTS = {("student.width", 256): 0.05}


def _study(*names: str, seeds: tuple[int, ...] = (), **file: object) -> Study:
    """With names or seeds, what `--arm` and `--seeds` make of the file."""
    study = planted_study({**FILE, **file, **({"seeds": list(seeds)} if seeds else {})})
    arms = tuple(arm for arm in study.arms if not names or arm.name in ("reference", *names))
    return replace(study, arms=arms, is_part=bool(names or seeds))


def _run(study: Study, folder: Path, source: Planted, **changes: object) -> dict[str, Any]:
    return run_study(study, {**facts(3), **changes}, folder, source)


def _cells(report: Mapping[str, Any]) -> dict[str, list[int]]:
    """Seeds of each arm that are done."""
    return {
        arm["name"]: sorted({c["seed"] for c in arm["cells"] if c["is_done"]})
        for arm in report["comparison"]["arms"]
    }


def _holm(report: Mapping[str, Any], name: str) -> float:
    (arm,) = (arm for arm in report["comparison"]["arms"] if arm["name"] == name)
    return float(arm["against_reference"]["holm_p"])


def _look(folder: Path, report: Mapping[str, Any]) -> None:
    """What `serkd test` leaves, with the numbers of dev."""
    seen = {"split": "test", "look": "look 1", "opened": look_at(folder)}
    write_json(folder / TESTED, {**report["comparison"], **seen})


def test_a_part_adds_to_what_was_asked_for_before(tmp_path: Path) -> None:
    alone = _run(_study("w256"), tmp_path, Planted(EFFECTS))
    assert _cells(alone) == {"reference": [0, 1], "w256": [0, 1]}
    assert alone["comparison"]["notes"][-1].startswith("2 of the file's 4 arms were asked for")
    two = _run(_study("w300", seeds=(2,)), tmp_path, Planted(EFFECTS))
    assert _cells(two) == {"reference": [0, 1, 2], "w256": [0, 1], "w300": [2]}
    assert two["stamp"]["seeds"] == two["comparison"]["seeds"] == [0, 1, 2]
    assert not two["is_partial"]
    # Holm's family only grows
    assert _holm(two, "w256") > _holm(alone, "w256")
    whole = _run(_study(), tmp_path, Planted(EFFECTS))
    names = ["reference", *FILE["arms"]]  # type: ignore[misc]
    assert _cells(whole) == {name: [0, 1] for name in names}  # as the file says
    assert not any("asked for" in note for note in whole["comparison"]["notes"])
    again = _run(_study("w256", seeds=(0,)), tmp_path, Planted(EFFECTS))
    assert _cells(again) == _cells(whole)
    assert _holm(again, "w256") == _holm(whole, "w256")


def test_an_arm_of_other_settings_or_that_is_gone_is_not_kept(tmp_path: Path) -> None:
    _run(_study(), tmp_path, Planted(EFFECTS))
    arms = {"w256": {"student.width": 256}, "w300": {"student.width": 302}, "new": {}}
    found = _run(_study("w256", arms={**arms, "new": {"student.depth": 6}}), tmp_path, Planted({}))
    assert list(_cells(found)) == ["reference", "w256"]


def test_an_arm_that_was_tuned_otherwise_is_not_kept(tmp_path: Path) -> None:
    """All arms are tuned with as many trials, or they cannot be compared."""
    space = {"student.fit.lr": {"float": [1e-4, 1e-2], "log": True}}
    retune = {"trials": 3, "space": space}
    _run(_study(), tmp_path, Planted(EFFECTS))
    part = _run(_study("w300", retune=retune), tmp_path, Planted(EFFECTS))
    assert list(_cells(part)) == ["reference", "w300"]
    more = _run(_study("w256", retune=retune), tmp_path, Planted(EFFECTS))
    assert list(_cells(more)) == ["reference", "w256", "w300"]
    assert more["cost"]["num_cells"] == 3 * 6 + 3 * 3


def test_an_arm_without_a_cell_on_the_folds_of_now_is_not_kept(tmp_path: Path) -> None:
    _run(_study(folds=["1"]), tmp_path, Planted(EFFECTS))
    part = _run(_study("w300", folds=["2", "3"]), tmp_path, Planted(EFFECTS))
    assert list(_cells(part)) == ["reference", "w300"]


def test_a_report_deletes_nothing_and_says_how_it_came_to_be(tmp_path: Path) -> None:
    """`collect`, which `serkd report` calls, adds to what is there."""
    report = _run(_study("w300"), tmp_path, Planted(EFFECTS), command="serkd ablate --arm w300")
    more = _run(_study("w256"), tmp_path, Planted(EFFECTS), command="serkd ablate --arm w256")
    assert more["stamp"]["command"] == "serkd ablate --arm w300 && serkd ablate --arm w256"
    files = {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    cells = list(planned_cells(read_plan(tmp_path)))
    assert {cell.name for cell in cells} == {path.stem for path in files}
    collect(tmp_path, cells, Planted({}, name="another"))
    assert {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()} == files
    assert report["num_done"] == 12


def test_a_corpus_that_was_prepared_anew_leaves_no_old_number(tmp_path: Path) -> None:
    old = Planted({("student.width", 256): 0.05})
    before = _run(_study(), tmp_path, old)
    _look(tmp_path, before)
    assert _run(_study(), tmp_path, old)["test"] is not None
    new = Planted({}, name="anew", skill=0.5)
    after = _run(_study(), tmp_path, new, corpus_hash="d" * 64)
    means = [[a["mean"] for a in r["comparison"]["arms"]] for r in (before, after)]
    assert min(means[0]) > 0.6 > max(means[1])
    assert (after["test"], after["is_test_opened"]) == (None, True)
    # and of those that are not trained again there is none
    stopped = Planted({}, name="third", stop_after=4, stop_with=SweepError, knows_computed=True)
    with pytest.raises(SweepError):
        _run(_study(), tmp_path, stopped, corpus_hash="e" * 64)
    assert write_report(tmp_path)["num_done"] == 4
    # a part of it says nothing of the rest, which is of the other corpus
    part = _run(_study("w256"), tmp_path, old, corpus_hash="c" * 64)
    assert list(_cells(part)) == ["reference", "w256"]
    assert part["cost"]["num_cells"] == part["num_cells"] == 12


def test_a_look_at_test_of_other_seeds_is_not_denied(tmp_path: Path) -> None:
    report = _run(_study(), tmp_path, Planted({}))
    assert show_test(report).notes == ("The test split was not opened.",)
    _look(tmp_path, report)
    more = _run(_study(seeds=(5,)), tmp_path, Planted({}))
    assert more["test"] is None
    (note,) = show_test(more).notes
    assert note.startswith("The test split was opened, but of other seeds")
