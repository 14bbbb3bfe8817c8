"""What the models said of every utterance, beside the results."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import confusion_matrix

from serkd.corpora.manifest import Manifest
from serkd.errors import InputError
from serkd.report.compare import compare_runs
from serkd.report.predictions import SCHEMA, Predictions, predictions_file, read_predictions
from serkd.report.sealed import open_test
from serkd.train.outputs import read_outputs

Run = Any  # what the fixture of this folder gives


@pytest.fixture(scope="module")
def opened(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run whose test split was opened."""
    storage = tmp_path_factory.mktemp("opened")
    shutil.copytree(run.storage, storage, dirs_exist_ok=True)
    (folder,) = (storage / "runs").iterdir()
    open_test(folder, None)
    return folder


def _check(found: Predictions, results: dict[str, Any], run: Run, manifest: Manifest) -> None:
    """The same confusions as in the results, from the stored logits and the manifest's labels."""
    split, fold = found.facts["split"], run.graph.fold
    assert found.table.schema.equals(SCHEMA)
    rows = found.table.to_pylist()
    assert len(rows) == 2 * len(fold.part(split))
    names = results["class_names"]
    assert found.facts["class_names"] == names
    for model, stage in (("teacher", "teacher_outputs"), ("student", "student")):
        of_model = [row for row in rows if row["model"] == model]
        assert [row["utt_id"] for row in of_model] == list(fold.part(split))
        outputs = read_outputs(run.artifact(stage) / "outputs.parquet").select(fold.part(split))
        for row, logits in zip(of_model, outputs.logits, strict=True):
            known = manifest.by_id[row["utt_id"]]
            assert row["fold"] == fold.name
            for name in ("speaker_id", "gender", "emotion"):
                assert row[name] == getattr(known, name)
            np.testing.assert_array_equal(np.array(row["logits"], np.float32), logits)
            assert row["predicted"] == names[int(logits.argmax())]
        truth, said = ([row[name] for row in of_model] for name in ("emotion", "predicted"))
        expected = results["folds"][fold.name][model][split]["confusion"]
        assert confusion_matrix(truth, said, labels=names).tolist() == expected


def test_a_run_writes_what_its_models_said_of_dev(run: Run, manifest: Manifest) -> None:
    _check(read_predictions(run.folder, "dev"), run.results, run, manifest)
    assert not (run.folder / predictions_file("test")).exists()


def test_opening_the_test_split_writes_what_they_said_of_test(
    opened: Path, run: Run, manifest: Manifest
) -> None:
    results = json.loads((opened / "test.json").read_text())
    _check(read_predictions(opened, "test"), results, run, manifest)


def test_the_file_says_what_data_it_is_of(run: Run) -> None:
    facts = read_predictions(run.folder, "dev").facts
    assert facts["folds_hash"] == run.results["folds_hash"]
    assert facts["corpus_hash"] == run.graph.fold.manifest.audio_hash
    assert facts["num_train"][run.graph.fold.name] == len(run.graph.fold.train)
    assert facts["experiment"] == json.loads((run.folder / "experiment.json").read_text())


def test_a_run_compared_with_itself_is_equivalent_and_has_its_results(
    run: Run, opened: Path
) -> None:
    found = compare_runs([str(run.folder), str(opened)], "teacher", "dev", "uar", 0.01)
    reference, copy = found["arms"]
    assert reference["pooled"] == run.results["pooled"]["teacher"]["dev"]["uar"]
    assert copy["against_reference"]["speaker_interval"] == [0.0, 0.0]
    assert copy["against_reference"]["verdict"] == "equivalent"


def test_dev_predictions_tell_no_test_label(run: Run, manifest: Manifest) -> None:
    table = read_predictions(run.folder, "dev").table
    assert not set(table["utt_id"].to_pylist()) & set(run.graph.fold.test)


def test_what_is_no_file_of_predictions_is_refused(run: Run, opened: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be the folder of a run, there is none"):
        read_predictions(tmp_path / "none", "dev")
    with pytest.raises(InputError, match=r"must have dev_predictions\.parquet, it has not; `serkd"):
        read_predictions(tmp_path, "dev")
    with pytest.raises(InputError, match=rf"sealed until `serkd test {run.folder}` opens it"):
        read_predictions(run.folder, "test")
    path = tmp_path / predictions_file("dev")
    shutil.copy(opened / predictions_file("test"), path)
    with pytest.raises(InputError, match="must be the dev predictions that serkd wrote"):
        read_predictions(tmp_path, "dev")
    for write in (
        lambda: path.write_bytes(b"PAR1"),
        lambda: pq.write_table(SCHEMA.empty_table(), path),
    ):
        write()
        with pytest.raises(InputError, match="must be a file of predictions"):
            read_predictions(tmp_path, "dev")
