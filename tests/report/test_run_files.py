"""What a run leaves behind: results, a picture, TensorBoard events."""

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from serkd.config import Experiment
from serkd.events import Observer
from serkd.features.store import read_frames
from serkd.models.student import build_student
from serkd.report.plots import draw_confusions, save_figure
from serkd.report.run import run_experiment, run_folder
from serkd.train.outputs import read_outputs

Run = Any  # what the fixture of this folder gives
logging.getLogger("tensorboard").setLevel(logging.ERROR)


def _read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = _read(folder)
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("stage", ["extractor", "teacher_units", "teacher", "student"])
def test_tensorboard_has_every_number_of_every_epoch(run: Run, stage: str) -> None:
    found = _scalars(run.folder / "tensorboard" / "fold_1")
    history = json.loads((run.artifact(stage) / "history.json").read_text())
    for name in history[0].keys() - {"epoch"}:
        expected = [(record["epoch"], np.float32(record[name])) for record in history]
        assert found[f"{stage}/{name}"] == expected, name


def test_tensorboard_has_losses_metrics_rates_and_final_results(run: Run) -> None:
    found = _scalars(run.folder / "tensorboard" / "fold_1")
    for tag in (
        "extractor/loss/emotion",
        "extractor/loss/gender",
        "teacher_units/loss/units_L2_K4",
        "teacher_units/loss/units_L2_K8",
        "teacher_units/dev_unit_accuracy/L2_K4",
        "teacher_units/lr/backbone",
        "teacher/lr/backbone",
        "teacher/lr/heads",
        "teacher/dev_uar",
        "student/loss",
        "student/loss/ce",
        "student/loss/supcon",
        "student/loss/kd",
        "student/lr/student",
        "student/dev_war",
        "student/dev_uar",
        "student/dev_wf1",
    ):
        assert tag in found
    metrics = run.results["folds"]["1"]["student"]["dev"]
    for name in ("war", "uar", "wf1"):
        ((_, value),) = found[f"final/student_dev_{name}"]
        assert value == pytest.approx(metrics[name], abs=1e-6)


def test_tensorboard_shows_the_same_curves_whether_stages_ran_or_were_read(run: Run) -> None:
    live, replayed = _scalars(run.live), _scalars(run.folder / "tensorboard" / "fold_1")
    at_the_end = ("final/", "units/")
    assert live == {t: values for t, values in replayed.items() if not t.startswith(at_the_end)}


def test_running_again_leaves_one_curve_and_not_two(run: Run, tiny: Experiment) -> None:
    before = _scalars(run.folder / "tensorboard" / "fold_1")
    run_experiment(tiny, "1", run.storage, "tiny", Observer())
    assert _scalars(run.folder / "tensorboard" / "fold_1") == before


def test_tensorboard_has_pictures_of_both_models_and_of_units(run: Run, tmp_path: Path) -> None:
    events = _read(run.folder / "tensorboard" / "fold_1")
    confusions = {"confusion_dev/teacher", "confusion_dev/student"}
    units = {"units/occupancy", "units/emotions_2/4", "units/emotions_2/8"}
    assert set(events.Tags()["images"]) == confusions | units
    for tag in confusions | units:
        (image,) = events.Images(tag)
        (tmp_path / "image.png").write_bytes(image.encoded_image_string)
        _assert_picture(tmp_path / "image.png")


def _assert_picture(path: Path) -> None:
    """Large enough to read and not of one colour."""
    pixels = matplotlib.image.imread(path)
    assert min(pixels.shape[:2]) > 200
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20


def test_a_run_writes_its_picture_configuration_and_results(run: Run, tiny: Experiment) -> None:
    _assert_picture(run.folder / "confusion.png")
    written = json.loads((run.folder / "results.json").read_text())
    costs = [results["cost"].pop("student") for results in (written, copy.deepcopy(run.results))]
    assert written == {**run.results, "cost": {}}
    for name in ("parameters", "macs"):  # how fast a machine is may change from run to run
        assert costs[0][name] == costs[1][name] > 0
    assert costs[0]["latency_s"] > 0
    assert Experiment.model_validate_json((run.folder / "experiment.json").read_text()) == tiny


@pytest.mark.parametrize(
    ("model", "stage"), [("teacher", "teacher_outputs"), ("student", "student")]
)
def test_results_are_scikit_learns_on_the_stored_outputs(run: Run, model: str, stage: str) -> None:
    outputs = read_outputs(run.artifact(stage) / "outputs.parquet")
    rows = dict(zip(outputs.utt_ids, outputs.logits.argmax(axis=1), strict=True))
    fold, names = run.graph.fold, run.results["class_names"]
    truth = [fold.manifest.by_id[utt_id].emotion for utt_id in fold.dev]
    guesses = [names[rows[utt_id]] for utt_id in fold.dev]
    expected = confusion_matrix(truth, guesses, labels=names)
    assert run.results["folds"]["1"][model]["dev"]["confusion"] == expected.tolist()


def test_outputs_are_those_of_the_stored_student(run: Run, tiny: Experiment) -> None:
    """The weights on disk, asked one utterance at a time, give the logits on disk."""
    model = build_student(tiny.student, 4, num_channels=80).eval()
    model.load_state_dict(load_file(run.artifact("student") / "model.safetensors"))
    frames = read_frames(run.artifact("logmel"), "logmel")
    outputs = read_outputs(run.artifact("student") / "outputs.parquet")
    assert outputs.utt_ids == frames.utt_ids
    with torch.inference_mode():
        for i in range(len(frames)):
            logmel = torch.from_numpy(frames[i].astype(np.float32))[None]
            found = model(logmel, torch.ones(logmel.shape[:2], dtype=torch.bool)).logits[0]
            np.testing.assert_allclose(found.numpy(), outputs.logits[i], atol=1e-5)


def _texts(confusions: Mapping[str, np.ndarray]) -> list[str]:
    figure = draw_confusions(confusions, ["a", "b", "c"], "a title")
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_a_confusion_picture_says_shares_of_the_true_class_and_counts(tmp_path: Path) -> None:
    counts = np.array([[6, 2, 0], [0, 0, 0], [1, 1, 2]])
    assert _texts({"teacher": counts}) == [
        *("75%\n6", "25%\n2", "0%\n0"),
        *("0%\n0", "0%\n0", "0%\n0"),  # a class that does not occur must not divide by zero
        *("25%\n1", "25%\n1", "50%\n2"),
    ]
    save_figure(
        draw_confusions({"t": counts, "s": counts.T}, list("abc")), tmp_path / "a" / "b.png"
    )
    _assert_picture(tmp_path / "a" / "b.png")


def test_every_choice_of_folds_has_its_own_folder(tiny: Experiment, tmp_path: Path) -> None:
    """One fold's results must not replace those of all folds."""
    folders = {run_folder(tmp_path, "tiny", tiny, choice) for choice in ("1", "2", "all")}
    assert len(folders) == 3
    assert run_folder(tmp_path, "tiny", tiny, "all") in folders
