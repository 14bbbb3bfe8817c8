"""Out-of-fold logits: whole chains that have never met the speakers that they score."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.corpora.manifest import Manifest
from serkd.corpora.protocols import build_folds
from serkd.distill.curriculum import rank_within_class, score_difficulty
from serkd.errors import InputError
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.stages.catalogue import (
    INNER_OUTPUTS,
    MODELS,
    STAGES,
    STUDENT,
    TEACHER_OUTPUTS,
    list_targets,
)
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.store import Artifact, StageStore
from serkd.threads import set_threads
from serkd.train.outputs import read_outputs

NUM_INNER = 2
CHANGES: dict[str, object] = {
    "protocol.num_folds": 6,  # two women and two men in train
    "teacher.inner_folds": NUM_INNER,
    "teacher.stage2.fit.epochs": 1,
    "student.fit.epochs": 1,
    "units.num_clusters": [4],
    "curriculum.pacing": "root",
}
INNER = [replace(TEACHER_OUTPUTS, inner=i) for i in (1, 2)]


class Listener(Observer):
    def __init__(self) -> None:
        self.computed: list[str] = []
        self.told: set[str] = set()

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        if not is_cached:
            self.computed.append(name)

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        self.told.add(stage)


def _graph(
    tiny: Experiment, manifest: Manifest, changes: Mapping[str, object] | None = None
) -> Graph:
    merged = {**CHANGES, **(changes or {})}
    experiment = build_experiment(tiny.model_dump(mode="json"), merged)
    return Graph(STAGES, experiment, build_folds(experiment.protocol, manifest)[0])


@dataclass(frozen=True)
class Run:
    """Everything of one fold, with what was heard while it was computed."""

    graph: Graph
    store: StageStore
    heard: Listener

    def artifact(self, ref: Ref) -> Artifact:
        return self.store.get(ref.stage, self.graph.key(ref))

    def ancestors(self, ref: Ref) -> Iterator[Artifact]:
        """By the keys that artifacts themselves have noted."""
        by_key = {path.parent.name: path.parent for path in self.store.root.rglob("stage.json")}
        waiting = [self.graph.key(ref)]
        while waiting:
            folder = by_key[waiting.pop()]
            info = json.loads((folder / "stage.json").read_text())
            waiting += info["fields"]["inputs"]
            yield Artifact(folder, info)


@pytest.fixture(scope="module")
def run(tiny: Experiment, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    set_threads(1)
    graph, heard = _graph(tiny, manifest), Listener()
    graph.check(list_targets(graph.experiment, list(MODELS)))
    store = StageStore(tmp_path_factory.mktemp("inner"))
    graph.run(list_targets(graph.experiment, list(MODELS)), store, Compute(), heard)
    return Run(graph, store, heard)


def _speaker(fold: Fold, utt_id: str) -> str:
    return fold.manifest.by_id[utt_id].speaker_id


def test_every_training_utterance_is_scored_by_a_teacher_without_its_speaker(run: Run) -> None:
    """What an utterance's logits came from, and all that went into that, learned from others."""
    fold, folder = run.graph.fold, run.artifact(INNER_OUTPUTS).folder
    found = read_outputs(folder / "outputs.parquet")
    assert found.utt_ids == fold.train
    about = json.loads((folder / "inner.json").read_text())["inner_folds"]
    scored = [utt_id for one in about for utt_id in one["left_out"]]
    assert sorted(scored) == sorted(fold.train)
    for one, ref, inner in zip(about, INNER, run.graph.inner_folds, strict=True):
        assert one["key"] == run.graph.key(ref)
        lineage = list(run.ancestors(ref))
        of_student = {"logmel", "student", "teacher_hidden", "teacher_inner_outputs"}
        unasked = {"random_teacher", "speeds"}
        assert {a.info["stage"] for a in lineage} == set(STAGES) - of_student - unasked
        for artifact in lineage:
            trained_on = fold.manifest.label_hash(inner.train)
            is_fitted = STAGES[artifact.info["stage"]].fits != "none"
            assert artifact.info["train_hash"] == (trained_on if is_fitted else None)
            assert ("train" in artifact.info["fields"]) == is_fitted
        heard_of = {_speaker(fold, utt_id) for utt_id in inner.train}
        assert not heard_of & {_speaker(fold, utt_id) for utt_id in one["left_out"]}
        answers = read_outputs(run.artifact(ref).folder / "outputs.parquet")
        assert answers.utt_ids == inner.test  # nobody needs what it says of those it learned from
        said = answers.select(one["left_out"])
        mine = found.select(one["left_out"])
        np.testing.assert_array_equal(mine.logits, said.logits)
        np.testing.assert_array_equal(mine.embedding, said.embedding)


def test_inner_stages_have_keys_of_their_own_and_share_what_learned_from_nobody(run: Run) -> None:
    graph = run.graph
    for ref in graph.closure([TEACHER_OUTPUTS]):
        inner = [replace(ref, inner=i) for i in (1, 2)]
        if STAGES[ref.stage].fits == "none":
            assert not set(inner) & set(graph.closure([INNER_OUTPUTS]))
        else:
            assert set(inner) <= set(graph.closure([INNER_OUTPUTS]))
            assert len({graph.key(one) for one in (ref, *inner)}) == 3
    names = run.heard.computed
    assert len(set(names)) == len(names)
    assert [n for n in names if n.startswith("features")] == ["features 0"]
    assert {"extractor", "extractor inner 1", "units 2/4 inner 2"} <= set(names)


def test_curves_of_inner_folds_have_names_of_their_own(run: Run) -> None:
    trained = {"extractor", "teacher_units", "teacher"}
    expected = trained | {f"{name} inner {i}" for name in trained for i in (1, 2)} | {"student"}
    assert run.heard.told == expected
    again = Listener()
    run.graph.run([INNER_OUTPUTS, STUDENT], run.store, Compute(), again)
    assert again.computed == []
    assert again.told == expected


def test_reports_are_given_no_artifact_of_an_inner_fold(run: Run) -> None:
    artifacts, results = run.graph.run([INNER_OUTPUTS], run.store, Compute(), Observer())
    assert all(ref.inner is None for ref in artifacts)
    assert {result.ref.inner for result in results} == {None, 1, 2}


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    shutil.copytree(run.store.root.parent, tmp_path / "copy")
    return replace(run, store=StageStore(tmp_path / "copy"))


@pytest.mark.parametrize("source", [TEACHER_OUTPUTS, INNER[1]], ids=str)
def test_a_teacher_that_has_seen_the_speakers_is_refused(copy: Run, source: Ref) -> None:
    """As if somebody had put the outer teacher, or another inner one, in its place."""
    graph, forged = copy.graph, copy.artifact(INNER[0]).folder
    shutil.rmtree(copy.artifact(INNER_OUTPUTS).folder)
    shutil.rmtree(forged)
    shutil.copytree(copy.artifact(source).folder, forged)
    with pytest.raises(InputError, match=r"must be fitted on fold 1\.1 .* was fitted on fold 1"):
        graph.run([INNER_OUTPUTS], copy.store, Compute(), Observer())
    # and if they had edited its record, the file itself still says so
    record = json.loads((forged / "stage.json").read_text())
    record |= {"train_hash": graph.inner_folds[0].train_hash, "fold": "1.1"}
    (forged / "stage.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"head\.safetensors: must be fitted on fold 1\.1 "):
        graph.run([INNER_OUTPUTS], copy.store, Compute(), Observer())


def test_labels_of_those_who_are_left_out_move_no_weight(
    run: Run, tiny: Experiment, manifest: Manifest, tmp_path: Path
) -> None:
    first, second = run.graph.inner_folds
    mine = next(u for u in run.graph.fold.train if u not in first.train and "happy" in u)
    rows = tuple(
        replace(u, emotion="sad", gender="unknown") if u.utt_id == mine else u
        for u in manifest.utterances
    )
    other = _graph(tiny, replace(manifest, utterances=rows))
    assert [one.train for one in other.inner_folds] == [first.train, second.train]
    assert other.key(TEACHER_OUTPUTS) != run.graph.key(TEACHER_OUTPUTS)
    assert other.key(INNER[1]) != run.graph.key(INNER[1])
    assert other.key(INNER_OUTPUTS) != run.graph.key(INNER_OUTPUTS)
    assert other.key(INNER[0]) == run.graph.key(INNER[0])
    store = StageStore(tmp_path / "fresh")  # equal keys are a claim: compute it all again
    other.run([INNER[0]], store, Compute(), Observer())
    for ref in other.closure([INNER[0]]):
        for path in run.artifact(ref).folder.glob("*.safetensors"):
            again = load_file(store.get(ref.stage, other.key(ref)).folder / path.name)
            for name, value in load_file(path).items():
                np.testing.assert_array_equal(again[name], value, err_msg=f"{ref} {name}")


def test_the_students_curriculum_goes_by_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its order is that of their difficulty, and not that of the teacher which it learns from."""
    from serkd.train import pacing

    given: list[np.ndarray] = []

    def note(scorer: str, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        given.append(logits)
        return score_difficulty(scorer, logits, labels)

    monkeypatch.setattr(pacing, "score_difficulty", note)
    shutil.rmtree(run.artifact(STUDENT).folder)
    run.graph.run([STUDENT], run.store, Compute(), Observer())
    ids = run.graph.fold.train
    unseen, seen = (
        read_outputs(run.artifact(ref).folder / "outputs.parquet").select(ids).logits
        for ref in (INNER_OUTPUTS, TEACHER_OUTPUTS)
    )
    np.testing.assert_array_equal(given[0], unseen)
    labels = np.array(run.graph.fold.manifest.labels(ids))
    orders = [
        rank_within_class(score_difficulty("teacher_entropy", x, labels), labels, "curriculum", 0)
        for x in (unseen, seen)
    ]
    assert not np.array_equal(*orders)


def test_only_a_student_that_is_paced_reads_them(tiny: Experiment, manifest: Manifest) -> None:
    def read(**changes: object) -> list[str]:
        dotted = {name.replace("__", "."): value for name, value in changes.items()}
        return [str(ref) for ref in _graph(tiny, manifest, dotted).inputs(STUDENT)]

    both = ["logmel", "teacher_outputs", "teacher_inner_outputs"]
    assert read() == both
    assert read(curriculum__pacing="none") == both[:2]
    assert read(teacher__inner_folds=0) == both[:2]
    assert read(distill__alpha=0.0) == ["logmel", "teacher_inner_outputs"]


def test_who_asks_for_a_teacher_gets_its_inner_ones_where_they_are_set(tiny: Experiment) -> None:
    with_inner = build_experiment(tiny.model_dump(mode="json"), CHANGES)
    assert list_targets(with_inner, ["teacher"]) == [TEACHER_OUTPUTS, INNER_OUTPUTS]
    assert list_targets(tiny, ["teacher"]) == [TEACHER_OUTPUTS]
    assert list_targets(with_inner, ["student"]) == [STUDENT]


def test_inner_folds_that_cannot_be_are_refused_before_any_work(
    tiny: Experiment, manifest: Manifest
) -> None:
    with pytest.raises(InputError, match=r"inner_folds must be at most .* = 4 in fold 1, got 5"):
        _graph(tiny, manifest, {"teacher.inner_folds": 5}).check([TEACHER_OUTPUTS])
    frames = 50 * sum(u.duration_s for u in manifest.utterances) / 6  # of a speaker, about
    too_many = {"units.num_clusters": [int(3 * frames)]}
    _graph(tiny, manifest, {**too_many, "teacher.inner_folds": 0}).check([TEACHER_OUTPUTS])
    with pytest.raises(InputError, match=r"num_clusters must be .* in fold 1\.1.*"):
        _graph(tiny, manifest, too_many).check([TEACHER_OUTPUTS])
    apart = {"units.gender_mode": "joint", "protocol.num_folds": 3}  # a woman and a man in train
    _graph(tiny, manifest, {**apart, "teacher.inner_folds": 0}).check([TEACHER_OUTPUTS])
    with pytest.raises(InputError, match=r"no (fe)?male speaker in train of fold 1\.1"):
        _graph(tiny, manifest, apart).check([TEACHER_OUTPUTS])
