"""What the models of a run said of every utterance: the file beside its results.

``dev_predictions.parquet`` is written by ``serkd run`` and ``serkd teacher``,
``test_predictions.parquet`` by ``serkd test``. One row for each model, fold and utterance:

=============  =============  ==================================================================
utt_id         string         as in the manifest
speaker_id     string
gender         string         female | male | unknown
fold           string         the fold whose dev or test part this utterance is in
model          string         teacher | student
emotion        string         the label
predicted      string         the class of the largest logit
logits         list<float32>  one for each class, in the order of `class_names`
=============  =============  ==================================================================

The schema's metadata ``serkd`` is JSON: `split` (dev | test), `class_names`, `protocol` (name),
`corpus_hash` (ids and samples of the whole corpus), `folds_hash` (parts of all folds), `num_train`
(utterances by fold) and `experiment` (all settings).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serkd.config import Experiment
from serkd.corpora.folds import Fold, hash_folds
from serkd.errors import InputError
from serkd.stages.catalogue import MODELS
from serkd.stages.context import Ref
from serkd.stages.store import Artifact
from serkd.train.outputs import read_outputs

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("utt_id", "speaker_id", "gender", "fold", "model")),
        ("emotion", pa.string()),
        ("predicted", pa.string()),
        ("logits", pa.list_(pa.float32())),
    ]
)
_META = b"serkd"
_FACTS = {
    "split",
    "class_names",
    "protocol",
    "corpus_hash",
    "folds_hash",
    "num_train",
    "experiment",
}
_HOW = {
    "dev": "`serkd run` and `serkd teacher` write it: run the experiment again",
    "test": "the test split stays sealed until `serkd test {folder}` opens it",
}


@dataclass(frozen=True)
class Predictions:
    """A file of predictions and the metadata it has (see the module)."""

    folder: Path
    table: pa.Table
    facts: Mapping[str, Any]


def predictions_file(split: str) -> str:
    """The file's name in a run's folder."""
    return f"{split}_predictions.parquet"


def predictions_table(
    artifacts: Mapping[Ref, Artifact], fold: Fold, labels: Mapping[str, str]
) -> pa.Table:
    """Rows of those models that there are, on the utterances of `labels` (id to emotion)."""
    parts = []
    names = fold.manifest.class_names
    rows = [fold.manifest.by_id[utt_id] for utt_id in labels]
    for model, ref in MODELS.items():
        if ref not in artifacts:
            continue
        outputs = read_outputs(artifacts[ref].folder / "outputs.parquet")
        logits = outputs.select(list(labels)).logits
        columns = {
            "utt_id": list(labels),
            "speaker_id": [row.speaker_id for row in rows],
            "gender": [row.gender for row in rows],
            "fold": [fold.name] * len(rows),
            "model": [model] * len(rows),
            "emotion": list(labels.values()),
            "predicted": [names[i] for i in logits.argmax(axis=1)],
            "logits": list(logits),
        }
        parts.append(pa.table(columns, SCHEMA))
    return pa.concat_tables(parts)


def write_predictions(
    folder: Path,
    split: str,
    experiment: Experiment,
    all_folds: Sequence[Fold],
    tables: Sequence[pa.Table],
) -> None:
    """Write the rows of some folds; a reader sees the old file or the new one."""
    facts = {
        "split": split,
        "class_names": list(all_folds[0].manifest.class_names),
        "protocol": experiment.protocol.name,
        "corpus_hash": all_folds[0].manifest.audio_hash,
        "folds_hash": hash_folds(all_folds),
        "num_train": {fold.name: len(fold.train) for fold in all_folds},
        "experiment": experiment.model_dump(mode="json"),
    }
    table = pa.concat_tables(tables).replace_schema_metadata({_META: json.dumps(facts)})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / predictions_file(split)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, temporary)
    temporary.replace(path)


def read_predictions(folder: Path, split: str) -> Predictions:
    """The predictions of a run's folder.

    Raises:
        InputError: no such folder, the split has none, or not a file of predictions.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: must be the folder of a run, there is none")
    path = folder / predictions_file(split)
    if not path.is_file():
        how = _HOW[split].format(folder=folder)
        raise InputError(f"{folder}: must have {path.name}, it has not; {how}")
    try:
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[_META])
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: must be a file of predictions: {error}") from error
    if not table.schema.equals(SCHEMA) or not facts.keys() >= _FACTS or facts["split"] != split:
        raise InputError(f"{path}: must be the {split} predictions that serkd wrote")
    return Predictions(folder, table, facts)
