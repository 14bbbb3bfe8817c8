"""Run folders with nothing but a file of predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serkd.report.predictions import SCHEMA, predictions_file

NAMES = ("angry", "happy", "neutral", "sad")
Rows = list[dict[str, Any]]


def draw_rows(
    skill: float,
    seed: int,
    *,
    num_folds: int = 6,
    speakers: int = 2,
    utterances: int = 24,
    model: str = "student",
) -> Rows:
    """Predictions of which a share `skill` is right, on the same utterances whatever the seed.

    Speakers of a fold are in no other.
    """
    rng, labels = np.random.default_rng(seed), np.random.default_rng(0)
    rows = []
    for fold in range(1, num_folds + 1):
        for number in range(speakers * utterances):
            speaker = f"s{fold}{number % speakers}"
            label = int(labels.integers(4))
            said = label if rng.random() < skill else int(label + rng.integers(1, 4)) % 4
            rows.append(
                {
                    "utt_id": f"{speaker}-{number:03}",
                    "speaker_id": speaker,
                    "gender": ("female", "male")[number % 2],
                    "fold": str(fold),
                    "model": model,
                    "emotion": NAMES[label],
                    "predicted": NAMES[said],
                    "logits": [float(i == said) for i in range(4)],
                }
            )
    return rows


def write_run(
    folder: Path,
    rows: Rows,
    *,
    split: str = "dev",
    settings: dict[str, Any] | None = None,
    num_folds: int = 6,
    **facts: object,
) -> Path:
    """A run's folder as `serkd run`, `serkd teacher` or `serkd test` would leave it."""
    described = {
        "split": split,
        "class_names": list(NAMES),
        "protocol": "speaker_kfold",
        "corpus_hash": "c" * 64,
        "folds_hash": "f" * 64,
        "num_train": {str(i): 48 * (num_folds - 2) for i in range(1, num_folds + 1)},
        "experiment": {"seed": 0, "student": {"width": 16}, **(settings or {})},
        **facts,
    }
    table = pa.Table.from_pylist(rows, SCHEMA)
    folder.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({b"serkd": json.dumps(described)})
    pq.write_table(table, folder / predictions_file(split))
    return folder
