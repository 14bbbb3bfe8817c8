"""Every epoch of every finished trial, as Parquet: TensorBoard shows few, a notebook wants all.

Each trial writes one small file; together they are a dataset, which `read_curves` reads as one
table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

_FIRST = {"trial": pa.int64(), "fold": pa.string(), "seed": pa.int64(), "epoch": pa.int64()}


def curves_path(sweep: Path, number: int) -> Path:
    """Where a trial's epochs are, below its sweep's folder."""
    return sweep / "curves" / f"trial-{number:05d}.parquet"


def write_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One row per epoch of a student: trial, fold, seed, epoch, and its losses and metrics.

    Numbers that some epochs do not have are null there.
    """
    names = sorted({name for row in rows for name in row} - _FIRST.keys())
    schema = pa.schema([*_FIRST.items(), *((name, pa.float64()) for name in names)])
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    pq.write_table(table, temporary)
    temporary.replace(path)


def read_curves(sweep: Path) -> pa.Table:
    """The epochs of all finished trials of a sweep; no rows where there is none."""
    files = [str(path) for path in sorted((sweep / "curves").glob("trial-*.parquet"))]
    if not files:
        return pa.schema(list(_FIRST.items())).empty_table()
    schema = pa.unify_schemas([pq.read_schema(file) for file in files])
    return ds.dataset(files, schema=schema).to_table()
