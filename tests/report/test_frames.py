"""`serkd features`, `serkd cluster` and `serkd units export`: the stages' results, handed out."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from serkd.cli import main
from serkd.config import Experiment
from serkd.corpora.audio import read_audio
from serkd.errors import InputError
from serkd.events import Observer
from serkd.features.backbone import Prefix
from serkd.features.store import read_frames
from serkd.report.fairseq import export_fairseq
from serkd.report.frames import write_clusters, write_features
from serkd.stages.context import Compute, Ref

Run = Any  # what the fixture of this folder gives


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not stored is computed in this process."""
    monkeypatch.setattr("serkd.report.frames.start_compute", lambda *_: Compute())


def _features(run: Run, tiny: Experiment, layers: list[int], out: Path) -> dict[str, Any]:
    return write_features(tiny, layers, run.storage, out, Observer())


def test_features_are_the_layers_of_the_untrained_backbone(
    run: Run, tiny: Experiment, tmp_path: Path
) -> None:
    about = _features(run, tiny, [0, 2], tmp_path / "out")
    assert about["layers"] == ["layer_0", "layer_2"]
    utterance = run.graph.fold.manifest.utterances[3]
    waveform = read_audio(Path(utterance.path)).waveform
    for layer in (0, 2):
        frames = read_frames(tmp_path / "out" / f"layer_{layer}", f"layer_{layer}")
        assert len(frames) == len(run.graph.fold.manifest.utterances)
        expected = Prefix(run.graph.backbone, layer)(waveform)
        found = frames[frames.utt_ids.index(utterance.utt_id)].astype(np.float32)
        np.testing.assert_allclose(found, np.asarray(expected, np.float32), atol=5e-3)


def test_the_parts_can_be_read_as_about_json_says(
    run: Run, tiny: Experiment, tmp_path: Path
) -> None:
    _features(run, tiny, [0], tmp_path / "out")
    assert (
        "numpy.frombuffer"
        in json.loads((tmp_path / "out" / "about.json").read_text())["how_to_read"]
    )
    path = next((tmp_path / "out" / "layer_0").glob("part-*.parquet"))
    row = pq.read_table(path).to_pylist()[0]
    layout = json.loads(pq.read_schema(path).metadata[b"serkd"])["layer_0"]
    blob = np.frombuffer(row["layer_0"], layout["dtype"])
    ours = read_frames(path.parent, "layer_0", {row["utt_id"]})
    assert np.array_equal(blob.reshape(row["num_frames"], layout["width"]), ours.values)


def test_what_is_stored_is_linked_and_not_computed_again(
    run: Run, tiny: Experiment, tmp_path: Path
) -> None:
    about = _features(run, tiny, [0], tmp_path / "out")
    assert [stage["is_cached"] for stage in about["stages"]] == [True]
    for path in run.artifact("features").glob("part-*.parquet"):
        assert (tmp_path / "out" / "layer_0" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture
def clusters(run: Run, tiny: Experiment, tmp_path: Path) -> Path:
    write_clusters(tiny, "1", run.storage, tmp_path / "clusters", Observer())
    return tmp_path / "clusters"


def test_clusters_are_those_of_the_run(run: Run, clusters: Path) -> None:
    about = json.loads((clusters / "about.json").read_text())
    assert about["folds"]["1"]["units"] == run.results["folds"]["1"]["units"]
    for num_clusters in (4, 8):
        folder = clusters / "fold_1" / f"layer_2_k_{num_clusters}"
        assert json.loads((folder / "fit.json").read_text())["num_clusters"] == num_clusters
        assert json.loads((folder / "units.json").read_text())["num_units"] == num_clusters
        assert (folder / "centroids.safetensors").is_file()
        assert len(read_frames(folder, "units")) == len(run.graph.fold.manifest.utterances)


@pytest.mark.parametrize("source", ["run", "cluster", "stage"])
def test_fairseq_gets_the_units_of_every_part_in_the_order_of_its_manifest(
    run: Run, clusters: Path, tmp_path: Path, source: str
) -> None:
    fold, ref = run.graph.fold, Ref("units", (2, 8))
    stage = run.storage / "stages" / "units" / run.graph.key(ref)
    given = {"run": run.folder, "cluster": clusters, "stage": stage}[source]
    written = export_fairseq(given, tmp_path / "km")
    names = ["fold_1/layer_2_k_8"] if source == "stage" else None
    assert [str(path.relative_to(tmp_path / "km")) for path in written] == (
        names or ["fold_1/layer_2_k_4", "fold_1/layer_2_k_8"]
    )
    units, counts = read_frames(stage, "units"), np.zeros(8, np.int64)
    for part, subset in (("train", "train"), ("dev", "valid"), ("test", "test")):
        root, *rows = (written[-1] / f"{subset}.tsv").read_text().splitlines()
        labels = (written[-1] / f"{subset}.km").read_text().splitlines()
        assert len(rows) == len(labels) == len(fold.part(part))
        by_path = {u.path: u for u in fold.manifest.utterances}
        seen = set()
        for row, line in zip(rows, labels, strict=True):
            path, num_samples = row.split("\t")
            utterance = by_path[str(Path(root) / path)]
            seen.add(utterance.utt_id)
            assert int(num_samples) == utterance.num_samples
            expected = units[units.utt_ids.index(utterance.utt_id)]
            assert [int(word) for word in line.split(" ")] == expected.tolist()
            if part == "train":
                counts += np.bincount(expected, minlength=8)
        assert seen == set(fold.part(part))
    lines = (written[-1] / "dict.km.txt").read_text().splitlines()
    assert lines == [f"{unit} {count}" for unit, count in enumerate(counts)]


def test_the_export_says_what_fairseq_would_stumble_over(
    run: Run, clusters: Path, tmp_path: Path
) -> None:
    path = clusters / "about.json"
    about = json.loads(path.read_text())
    about["experiment"]["corpus"]["max_duration_s"] = 0.6
    path.write_text(json.dumps(about))
    written = export_fairseq(clusters, tmp_path / "km")
    notes = json.loads((written[0] / "export.json").read_text())["notes"]
    cut = sum(u.duration_s > 0.6 for u in run.graph.fold.manifest.utterances)
    assert any(note.startswith(f"{cut} utterances are longer than") for note in notes)


def test_units_of_other_training_utterances_are_not_exported(
    clusters: Path, tmp_path: Path
) -> None:
    """As if the manifest had changed since: the folds are dealt anew."""
    path = clusters / "fold_1" / "layer_2_k_8" / "units.json"
    said = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**said, "train_hash": "0" * 64}))
    with pytest.raises(InputError, match=r"fold 1 now trains on other utterances .* \(00000000\)"):
        export_fairseq(clusters, tmp_path / "km")


def test_clusters_come_with_pictures_of_their_units(clusters: Path) -> None:
    names = {path.name for path in (clusters / "fold_1").glob("*.png")}
    assert names == {"occupancy.png", "emotions_2_4.png", "emotions_2_8.png"}
    assert list((clusters / "tensorboard" / "fold_1").glob("events.out.tfevents.*"))


def test_units_that_are_gone_are_named(run: Run, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    shutil.copytree(run.storage, storage)
    shutil.rmtree(storage / "stages" / "units")
    folder = storage / "runs" / run.folder.name
    with pytest.raises(InputError, match=r"units 2/4 of fold 1 must be stored, .* run it again"):
        export_fairseq(folder, tmp_path / "km")


def test_a_stage_that_no_run_used_cannot_tell_its_corpus(run: Run, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    shutil.copytree(run.storage, storage)
    shutil.rmtree(storage / "runs")
    stage = storage / "stages" / "units" / run.graph.key(Ref("units", (2, 8)))
    with pytest.raises(InputError, match=r"must be of a run below .* `serkd cluster` wrote"):
        export_fairseq(stage, tmp_path / "km")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["features", "--out", "o"], "a recipe must be given, or a manifest with --manifest"),
        (["cluster", "--out", "o"], "a recipe must be given, or a manifest with --manifest"),
        (["features", "R", "--out", "o", "--layers", "0,3"], "--layers must be 0 to 2 for tiny-"),
        (["features", "R", "--out", "o", "--layers", "1,x"], "--layers must be different whole"),
        (["cluster", "R", "--out", "o", "--layers", ""], "--layers must be different whole"),
        (["cluster", "R", "--out", "o", "--layers", "0"], "--layers must be different whole"),
        (["cluster", "R", "--out", "o", "--layers", "2,2"], "--layers must be different whole"),
        (["cluster", "R", "--out", "o", "--num-clusters", "1"], "--num-clusters must be different"),
        (["cluster", "R", "--out", "o", "--layers", "3"], "units.layers must be at most 2"),
        (["cluster", "R", "--out", "o", "--fold", "9"], "--fold must be one of 1, 2, 3 or all"),
        (["cluster", "R", "--out", "full/mine/x"], "--out must be where files can be written"),
        (["features", "R", "--out", "o", "--storage", "full/mine"], "a file is in its way"),
        (["cluster", "R", "--out", "full"], "--out must be a new or empty folder"),
        (["features", "R", "--out", "full"], "--out must be a new or empty folder"),
        (["units", "export", "full", "--out", "o"], "must be a folder of `serkd run`"),
        (["units", "export", "full", "--out", "full"], "--out must be a new or empty folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_refused_and_nothing_is_written(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    given = [str(tiny_recipe) if word == "R" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["serkd", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_features_come_from_a_manifest_alone(
    run: Run,
    manifest_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--manifest", manifest_path, "--storage", run.storage, "--out", tmp_path / "o"]
    monkeypatch.setattr(sys, "argv", ["serkd", "features", *map(str, arguments), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    about = json.loads(capsys.readouterr().out)
    assert about["layers"] == ["layer_0"]
    assert about["experiment"]["corpus"]["manifest"] == str(manifest_path)
