"""TensorBoard has every term and schedule of a whole student, and embeddings of dev."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from serkd.config import Experiment
from serkd.distill.curriculum import compute_alpha, compute_epoch_share, compute_reversal
from serkd.events import Observer, Observers
from serkd.recipe import build_experiment
from serkd.report import embeddings
from serkd.report.run import run_experiment
from serkd.report.tensorboard import TensorBoard
from serkd.stages.catalogue import STAGES, STUDENT, TEACHER_OUTPUTS
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.train.outputs import read_outputs

Run = Any  # what the fixture of this folder gives
logging.getLogger("tensorboard").setLevel(logging.ERROR)
WHOLE: dict[str, Any] = {
    "student.fit.epochs": 4,
    "distill.gamma": 0.5,
    "distill.supcon_weight": 0.3,
    "curriculum.pacing": "linear",
    "curriculum.temperature_curriculum": "instance",
    "curriculum.alpha_curriculum": "linear",
    "curriculum.alpha_start": 0.9,
    "curriculum.alpha_end": 0.3,
    "meta.order": "finite",
    "meta.rho": 0.2,
}


@pytest.fixture(scope="module")
def scalars(
    run: Run, tiny: Experiment, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """What the student wrote while it was trained, an epoch after the other."""
    folder = tmp_path_factory.mktemp("board")
    experiment = build_experiment(tiny.model_dump(mode="json"), WHOLE)
    graph, store = Graph(STAGES, experiment, run.graph.fold), StageStore(run.storage)
    board = TensorBoard(folder)
    graph.run([STUDENT], store, Compute(), Observers([board, Observer()]))
    board.close()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag.removeprefix("student/"): [event.value for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.startswith("student/")
    }


def test_every_term_and_every_schedule_is_there_in_every_epoch(
    scalars: dict[str, list[float]],
) -> None:
    for name in (
        *(f"loss/{term}" for term in ("ce", "supcon", "kd", "hint")),
        *("loss", "grad_norm", "alpha", "lambda", "temperature", "data_share"),
        *("meta/quiz_loss", "meta/teacher_loss", "meta/teacher_drift", "teacher_dev_uar"),
        *("lr/student", "lr/hint", "lr/temperature", "dev_uar", "dev_war", "dev_wf1"),
    ):
        assert len(scalars[name]) == 4, name
        assert all(map(math.isfinite, scalars[name])), name


def test_what_is_shown_is_what_the_schedules_say(
    scalars: dict[str, list[float]], tiny: Experiment
) -> None:
    experiment = build_experiment(tiny.model_dump(mode="json"), WHOLE)
    distill, curriculum, epochs = experiment.distill, experiment.curriculum, 4
    share = scalars["data_share"]
    for epoch in range(epochs):
        lowest, highest = epoch / epochs, (epoch + 1) / epochs  # means over an epoch's steps
        alphas = [compute_alpha(distill, curriculum, t) for t in (lowest, highest)]
        assert min(alphas) - 1e-6 <= scalars["alpha"][epoch] <= max(alphas) + 1e-6
        lambdas = [compute_reversal(curriculum, t) for t in (lowest, highest)]
        assert min(lambdas) - 1e-6 <= scalars["lambda"][epoch] <= max(lambdas) + 1e-6
        # a class has two learned utterances, and is cut at a whole one
        assert share[epoch] == math.ceil(2 * compute_epoch_share(curriculum, epoch, epochs)) / 2
    assert share == sorted(share)
    assert share[-1] > share[0]
    drift = scalars["meta/teacher_drift"]
    assert 0 < drift[0] < drift[-1]
    low = curriculum.temperature_start
    assert all(low < t < low + curriculum.temperature_range for t in scalars["temperature"])


def _projector(folder: Path) -> dict[str, tuple[np.ndarray, list[dict[str, str]]]]:
    """Points and what is said of each, by the name that the projector shows."""
    config = text_format.Parse(
        (folder / "projector_config.pbtxt").read_text(encoding="utf-8"), ProjectorConfig()
    )
    found = {}
    for one in config.embeddings:
        header, *rows = (folder / one.metadata_path).read_text(encoding="utf-8").splitlines()
        about = [dict(zip(header.split("\t"), row.split("\t"), strict=True)) for row in rows]
        found[one.tensor_name] = (np.loadtxt(folder / one.tensor_path), about)
    return found


@pytest.mark.parametrize(
    ("model", "stage"), [("teacher", "teacher_outputs"), ("student", "student")]
)
def test_the_projector_has_all_of_dev_and_nothing_of_test(run: Run, model: str, stage: str) -> None:
    points, about = _projector(run.folder / "tensorboard" / "fold_1")[f"{model}_dev"]
    fold = run.graph.fold
    assert [row["utt_id"] for row in about] == list(fold.dev)
    assert not {row["utt_id"] for row in about} & {*fold.test, *fold.train}
    outputs = read_outputs(run.artifact(stage) / "outputs.parquet").select(fold.dev)
    np.testing.assert_allclose(points, outputs.embedding, atol=5.1e-5)
    names = fold.manifest.class_names
    for row, logits in zip(about, outputs.logits, strict=True):
        known = fold.manifest.by_id[row["utt_id"]]
        assert (row["emotion"], row["gender"]) == (known.emotion, known.gender)
        assert row["speaker_id"] == known.speaker_id
        assert row["predicted"] == names[int(logits.argmax())]


def test_of_a_large_dev_both_models_show_the_same_part(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embeddings, "MOST_UTTERANCES", 5)
    store, graph = StageStore(run.storage), run.graph
    refs = (TEACHER_OUTPUTS, STUDENT)
    board = TensorBoard(tmp_path)
    embeddings.show_embeddings(
        board, {ref: store.get(ref.stage, graph.key(ref)) for ref in refs}, graph.fold
    )
    board.close()
    found = _projector(tmp_path)
    ids = [[row["utt_id"] for row in about] for _, about in found.values()]
    assert ids[0] == ids[1]
    assert len(set(ids[0]) & set(graph.fold.dev)) == 5


def test_a_run_again_prints_nothing_and_shows_the_same(
    run: Run, tiny: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a program reads from standard output is JSON and nothing else."""
    folder = run.folder / "tensorboard" / "fold_1"
    before = _projector(folder)
    capsys.readouterr()
    run_experiment(tiny, "1", run.storage, "tiny", Observer())
    assert capsys.readouterr().out == ""
    assert _projector(folder).keys() == before.keys()
    for name, (points, about) in _projector(folder).items():
        np.testing.assert_array_equal(points, before[name][0])
        assert about == before[name][1]


def test_names_with_tabs_and_lines_keep_their_row(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.embeddings("m", np.eye(2, 3), ("utt_id", "speaker"), [("a\tb", "c\nd"), ("e", "f")])
    board.close()
    _, about = _projector(tmp_path)["m"]
    assert about == [{"utt_id": "a b", "speaker": "c d"}, {"utt_id": "e", "speaker": "f"}]
