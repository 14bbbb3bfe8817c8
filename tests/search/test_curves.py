"""Curves of finished trials: what is written is read back, whatever each trial measured."""

from pathlib import Path

from serkd.search.curves import curves_path, read_curves, write_curves


def test_trials_become_one_table(tmp_path: Path) -> None:
    rows = [
        {"trial": 0, "fold": "1", "seed": 0, "epoch": 1, "loss": 1.5, "dev_uar": 0.25},
        {"trial": 0, "fold": "1", "seed": 0, "epoch": 2, "loss": 1.0, "dev_uar": 0.5},
    ]
    other = [{"trial": 3, "fold": "2", "seed": 1, "epoch": 1, "dev_uar": 1, "lr/student": 0.1}]
    assert read_curves(tmp_path).num_rows == 0
    write_curves(curves_path(tmp_path, 3), other)
    write_curves(curves_path(tmp_path, 0), rows)
    write_curves(curves_path(tmp_path, 0), rows)  # a trial that is run again replaces its own
    found = read_curves(tmp_path).to_pylist()
    names = ("trial", "fold", "seed", "epoch", "dev_uar", "loss", "lr/student")
    assert [set(row) for row in found] == [set(names)] * 3
    assert [{k: v for k, v in row.items() if v is not None} for row in found] == [*rows, *other]
    assert found[2]["loss"] is None
