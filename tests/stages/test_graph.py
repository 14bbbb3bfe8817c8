"""Running stages: what is computed, what is read, and what a stage may see."""

import ast
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import serkd.stages
from serkd.corpora.manifest import Manifest
from serkd.errors import InputError, SealedError
from serkd.events import Observer
from serkd.stages.catalogue import STAGES, STUDENT, TEACHER_OUTPUTS
from serkd.stages.context import Compute, Context, Ref, alone
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore

BuildGraph = Callable[..., Graph]
TARGETS = [TEACHER_OUTPUTS, STUDENT]


class Listener(Observer):
    """Notes which stages were computed and which were read."""

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.cached: list[str] = []
        self.epochs: list[str] = []

    def stage(self, name: str, key: str, *, is_cached: bool, seconds: float) -> None:
        (self.cached if is_cached else self.computed).append(name)

    def epoch(self, stage: str, record: Any) -> None:  # noqa: ANN401
        self.epochs.append(stage)


@pytest.fixture
def store(storage: Path, tmp_path: Path) -> StageStore:
    """A copy of all stages of the first fold."""
    shutil.copytree(storage, tmp_path / "copy")
    return StageStore(tmp_path / "copy")


def _run(graph: Graph, store: StageStore, targets: list[Ref] = TARGETS) -> Listener:
    heard = Listener()
    graph.run(targets, store, Compute(), heard)
    return heard


def test_the_second_run_computes_nothing_and_says_so_for_every_stage(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph, heard = build_graph(), Listener()
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.json")}
    _, results = graph.run(TARGETS, store, Compute(), heard)
    names = [str(ref) for ref in graph.closure(TARGETS)]
    assert heard.cached == names
    assert heard.computed == []
    assert [str(result.ref) for result in results] == names
    assert all(result.is_cached and result.seconds > 0 for result in results)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*.json")} == before


def test_stored_stages_replay_their_epochs(build_graph: BuildGraph, store: StageStore) -> None:
    """A watcher sees the same curve whether a stage ran or not."""
    heard = _run(build_graph(), store)
    assert {name: heard.epochs.count(name) for name in set(heard.epochs)} == {
        "extractor": 1,
        "teacher_units": 1,
        "teacher": 2,
        "student": 2,
    }


def _remove(graph: Graph, store: StageStore, *refs: Ref) -> None:
    for ref in refs:
        shutil.rmtree(store.folder(ref.stage, graph.key(ref)))


def test_what_only_stored_stages_need_is_not_computed_again(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph = build_graph()
    upstream = [ref for ref in graph.closure(TARGETS) if ref not in TARGETS]
    _remove(graph, store, *upstream)
    heard = _run(graph, store)
    assert heard.computed == []
    assert sorted(heard.cached) == ["student", "teacher_outputs"]


def test_a_missing_stage_brings_back_only_what_it_needs(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph = build_graph()
    upstream = [Ref("units", (2, 4)), Ref("hidden", (2,))]
    _remove(graph, store, Ref("teacher"), TEACHER_OUTPUTS, *upstream)
    assert _run(graph, store).computed == ["teacher", "teacher_outputs"]


def test_a_folder_without_its_mark_is_garbage_and_is_computed_again(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph = build_graph()
    folder = store.folder("student", graph.key(STUDENT))
    (folder / "stage.json").unlink()
    (folder / "model.safetensors").write_bytes(b"half")
    assert _run(graph, store).computed == ["student"]
    assert _run(graph, store).computed == []
    assert (folder / "model.safetensors").stat().st_size > 1_000


def test_an_artifact_of_another_fold_is_refused_naming_both(
    build_graph: BuildGraph, store: StageStore
) -> None:
    """As if somebody had copied or linked it: its key says one fold, its record another."""
    first, second = build_graph(), build_graph(fold=1)
    ref = Ref("extractor")
    forged = store.folder(ref.stage, second.key(ref))
    shutil.copytree(store.folder(ref.stage, first.key(ref)), forged)
    with pytest.raises(InputError, match=r"fitted on fold 2 .* was fitted on fold 1 "):
        second.run([ref], store, Compute(), Observer())


def test_a_fold_of_the_same_name_with_other_training_data_is_refused(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph = build_graph()
    path = store.folder("extractor", graph.key(Ref("extractor"))) / "stage.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "train_hash": "0" * 64}))
    with pytest.raises(InputError, match=r"train 00000000"):
        graph.run([Ref("extractor")], store, Compute(), Observer())


def test_the_record_of_a_stage_gives_back_its_key(
    build_graph: BuildGraph, store: StageStore
) -> None:
    """Lineage: the fields are all that the key is made of, inputs' keys included."""
    from serkd.stages.key import compute_key

    graph = build_graph()
    for ref in graph.closure(TARGETS):
        found = store.find(ref.stage, graph.key(ref))
        assert found is not None
        assert compute_key(found.info["fields"]) == graph.key(ref) == found.info["key"]
        inputs = [graph.key(used) for used in graph.inputs(ref)]
        assert found.info["fields"]["inputs"] == inputs
        assert found.info["fold"] == (None if STAGES[ref.stage].fits == "none" else "1")
        assert {"torch", "ray", "serkd"} <= found.info["versions"].keys()


def _probe(graph: Graph, store: StageStore, ref: Ref, look: Callable[[Context], object]) -> object:
    """Run `look` in the place of a stage's function."""
    seen: list[object] = []
    stages = {**graph.stages, ref.stage: replace(STAGES[ref.stage], run=alone(lambda c: _note(c)))}

    def _note(context: Context) -> None:
        seen.append(look(context))

    _remove(graph, store, ref)
    probed = Graph(stages, graph.experiment, graph.fold)
    probed.run([ref], store, Compute(), Observer())
    return seen[0]


@pytest.mark.parametrize(
    "dotted", ["teacher.stage2", "train.num_workers", "corpus.max_duration_s", "seedling", "stu"]
)
def test_a_context_refuses_a_key_that_its_stage_does_not_declare(
    build_graph: BuildGraph, store: StageStore, dotted: str
) -> None:
    def look(context: Context) -> object:
        with pytest.raises(KeyError, match=f"student reads {dotted}, which it does not declare"):
            context.config(dotted)
        return context.config("student.fit.lr"), context.config("seed")

    graph = build_graph()
    expected = (graph.experiment.student.fit.lr, graph.experiment.seed)
    assert _probe(graph, store, STUDENT, look) == expected


@pytest.mark.parametrize("ref", [Ref("features", (0,)), Ref("extractor"), STUDENT], ids=str)
def test_no_stage_can_read_a_test_label(
    build_graph: BuildGraph, store: StageStore, ref: Ref
) -> None:
    def look(context: Context) -> object:
        manifest = context.fold.manifest
        with pytest.raises(SealedError, match="is a test utterance: its label is sealed"):
            manifest.labels(context.fold.test)
        assert not any(manifest.by_id[utt_id].emotion for utt_id in context.fold.test)
        assert not any(manifest.by_id[utt_id].votes for utt_id in context.fold.test)
        return len(manifest.labels(context.fold.train))

    graph = build_graph()
    assert _probe(graph, store, ref, look) == len(graph.fold.train)


def test_stage_functions_go_around_declared_keys_for_the_machine_only() -> None:
    """`context.experiment` has every key; only `train`, which no key has, may be taken from it."""
    for path in Path(serkd.stages.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            is_whole = isinstance(node, ast.Attribute) and ast.unparse(node) == "context.experiment"
            if is_whole:
                parent = parents[node]
                assert isinstance(parent, ast.Attribute), f"{path.name}:{node.lineno}"
                assert parent.attr == "train", f"{path.name}:{node.lineno}"


def test_wrong_layers_are_refused_all_at_once(build_graph: BuildGraph) -> None:
    graph = build_graph({"units.layers": [3, 4], "backbone.frozen_layers": 3})
    with pytest.raises(InputError, match=r"(?s)units\.layers.*at most 2.*frozen_layers.*at most 2"):
        graph.check([TEACHER_OUTPUTS])


def test_units_of_layers_that_nothing_tunes_are_refused(build_graph: BuildGraph) -> None:
    layers = {"units.layers": [1, 2], "backbone.frozen_layers": 2}
    graph = build_graph(layers)
    with pytest.raises(InputError, match=r"units\.layers must be at least .* = 2 .*got \[1\]"):
        graph.check([TEACHER_OUTPUTS])
    build_graph({**layers, "units.source": "backbone"}).check([TEACHER_OUTPUTS])


@pytest.mark.parametrize("start", ["extractor", "backbone"])
def test_units_that_nobody_needs_are_not_checked(build_graph: BuildGraph, start: str) -> None:
    unwanted = {"units.layers": [1], "units.num_clusters": [1_000_000]}
    graph = build_graph({**unwanted, "backbone.frozen_layers": 2, "teacher.start": start})
    graph.check([TEACHER_OUTPUTS])
    with pytest.raises(InputError, match=r"(?s)units\.layers.*units\.num_clusters"):
        graph.check([Ref("units", (1, 1_000_000))])


def test_adapters_without_a_layer_are_refused_before_any_work(build_graph: BuildGraph) -> None:
    changes = {"units.layers": [2], "backbone.frozen_layers": 2, "backbone.lora.rank": 4}
    graph = build_graph(changes)
    with pytest.raises(InputError, match=r"backbone\.lora\.rank must be 0 .* 4 with 2 frozen"):
        graph.check([TEACHER_OUTPUTS])
    graph.check([Ref("features", (2,))])
    build_graph({**changes, "backbone.lora.rank": 0}).check([TEACHER_OUTPUTS])


def test_dkd_of_the_other_classes_alone_is_refused_where_there_is_one_other(
    build_graph: BuildGraph, manifest: Manifest
) -> None:
    two = manifest.class_names[:2]
    rows = tuple(each for each in manifest.utterances if each.emotion in two)
    binary = replace(manifest, utterances=rows, class_names=two)
    others = {"distill.kd": "dkd", "distill.dkd_target_weight": 0.0}
    build_graph(others).check([STUDENT])
    build_graph({**others, "distill.alpha": 0.0}, changed_manifest=binary).check([STUDENT])
    with pytest.raises(InputError, match=r"dkd_target_weight must be above 0 .* 2 emotions"):
        build_graph(others, changed_manifest=binary).check([STUDENT])


@pytest.mark.parametrize(
    ("changes", "helps", "message"),
    [
        (
            {"student.fit.batches": "class_balanced", "student.fit.batch_size": 4},
            {"student.fit.batch_size": 5},
            r"student\.fit\.batch_size must be at least 5 with class_balanced batches .* got 4",
        ),
        (
            {"student.fit.batch_size": 1},
            {"distill.supcon_views": 2},
            r"student\.fit\.batch_size must be at least 2 with shuffled batches .* got 1",
        ),
        (
            {
                "train.num_workers": 5,
                "extractor.fit.batch_size": 10,
                "teacher.stage1.fit.batch_size": 10,
                "teacher.stage2.fit.batch_size": 10,
                "student.fit.batch_size": 10,
                "curriculum.pacing": "root",
                "curriculum.start_share": 0.01,
            },
            {"train.num_workers": 4},
            r"curriculum\.start_share must leave .* the 5 workers .* got 0\.01, 4 utterances",
        ),
    ],
)
def test_students_that_could_never_train_are_refused_before_their_teachers_do(
    build_graph: BuildGraph,
    changes: dict[str, object],
    helps: dict[str, object],
    message: str,
) -> None:
    """A contrastive term of lone utterances, a first epoch of fewer utterances than workers."""
    with pytest.raises(InputError, match=message):
        build_graph(changes).check([STUDENT])
    build_graph(changes | helps).check([STUDENT])


def test_more_clusters_than_training_frames_are_refused_before_any_work(
    build_graph: BuildGraph,
) -> None:
    build_graph().check([TEACHER_OUTPUTS])
    graph = build_graph({"units.num_clusters": [8, 1_000_000]})
    with pytest.raises(InputError, match=r"units\.num_clusters must be at most .*\[1000000\]"):
        graph.check([TEACHER_OUTPUTS])


def test_input_that_can_never_work_leaves_no_work_folder(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph = build_graph({"units.num_clusters": [1_000_000]})
    with pytest.raises(InputError, match=r"units\.num_clusters must be at most .* got 1000000"):
        graph.run(TARGETS, store, Compute(), Observer())
    assert not [path for path in (store.root / ".work").iterdir() if path.is_dir()]


@pytest.mark.parametrize("state", ["checkpoints/epoch-00003", "ray_train/checkpoint_2", None])
def test_epochs_outlive_audio_that_is_away_for_a_while(
    build_graph: BuildGraph, tmp_path: Path, state: str | None
) -> None:
    def stop(context: Context) -> None:
        if state is not None:
            (context.work / state).mkdir(parents=True)
        raise InputError("a.wav: must be there")

    graph, store = build_graph(), StageStore(tmp_path)
    graph.stages = {**STAGES, "logmel": replace(STAGES["logmel"], run=alone(stop))}
    with pytest.raises(InputError, match=r"a\.wav"):
        graph.run([Ref("logmel")], store, Compute(), Observer())
    work = store.work("logmel", graph.key(Ref("logmel")))
    assert work.exists() == (state is not None)
    assert state is None or (work / state).is_dir()


class Progress(Listener):
    """Notes who told how far it is."""

    def __init__(self) -> None:
        super().__init__()
        self.told: set[str] = set()

    def progress(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        self.told.add(stage)


def test_a_layers_scales_and_all_layers_come_from_one_pass(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph = build_graph({"units.layers": [1, 2], "units.num_clusters": [4, 8]})
    scales = [Ref("units", scale) for scale in ((1, 4), (1, 8), (2, 4), (2, 8))]
    _remove(graph, store, Ref("hidden", (2,)), *scales[2:])
    heard = Progress()
    artifacts, _ = graph.run(scales, store, Compute(), heard)
    # a pass over the frames that makes several stages is named without their scale
    assert heard.told == {"hidden", "units"}
    assert heard.computed == [
        "hidden 1", "hidden 2", "centroids 1/4", "centroids 1/8",
        "units 1/4", "units 1/8", "units 2/4", "units 2/8",
    ]  # fmt: skip
    alone = build_graph({"units.layers": [1], "units.num_clusters": [8]})
    assert alone.key(scales[1]) == graph.key(scales[1])
    again = StageStore(store.root.parent / "alone")
    found, _ = alone.run([scales[1]], again, Compute(), Observer())
    for name in ("part-00000.parquet", "quality.json"):
        expected = (artifacts[scales[1]].folder / name).read_bytes()
        assert (found[scales[1]].folder / name).read_bytes() == expected


def test_units_of_the_backbone_need_no_extractor(
    build_graph: BuildGraph, store: StageStore
) -> None:
    changes = {"units.source": "backbone", "units.layers": [1, 2], "backbone.frozen_layers": 2}
    graph, scale = build_graph(changes), Ref("units", (1, 8))
    assert [str(ref) for ref in graph.closure([scale])] == [
        "features 1", "centroids 1/8", "units 1/8",
    ]  # fmt: skip
    artifacts, _ = graph.run([scale], store, Compute(), Observer())
    about = json.loads((artifacts[scale].folder / "units.json").read_text())
    assert (about["source"], about["layer"], about["num_units"]) == ("backbone", 1, 8)


def test_what_clustering_holds_is_given_back_before_other_stages(
    build_graph: BuildGraph, store: StageStore
) -> None:
    """Its actors have the GPUs that others wait for, and its frames are gigabytes."""
    graph, compute, open_in = build_graph(), Compute(), []
    scale = Ref("units", (2, 4))
    _remove(graph, store, Ref("centroids", (2, 4)), scale)

    def note(name: str) -> Callable[..., None]:
        def run(contexts: Any) -> None:  # noqa: ANN401
            open_in.append((name, "clustering" in compute.__dict__))
            STAGES[name].run(contexts)

        return run

    stages = {
        name: replace(stage, run=note(name) if name in ("centroids", "units") else stage.run)
        for name, stage in graph.stages.items()
    }
    Graph(stages, graph.experiment, graph.fold).run([scale], store, compute, Observer())
    assert open_in == [("centroids", False), ("units", False)]


def _resident_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how memory is kept is glibc's")
def test_what_a_stage_has_freed_is_the_machines_again(
    build_graph: BuildGraph, store: StageStore
) -> None:
    """A trial runs in a thread of its own, whose free memory no other thread would use."""
    graph, pins = build_graph(), []

    def fragment(contexts: Sequence[Context]) -> None:
        np.empty(30 * 2**20, np.uint8)  # once freed, glibc no longer maps smaller ones
        frames = []
        for _ in range(200):
            frames.append(np.ones(2**20, np.uint8))
            pins.append(bytearray(100_000))  # between what is freed and the end of the heap

    stages = {**graph.stages, "student": replace(graph.stages["student"], run=fragment)}
    _remove(graph, store, STUDENT)
    before = _resident_mb()
    trial = Thread(
        target=Graph(stages, graph.experiment, graph.fold).run,
        args=([STUDENT], store, Compute(), Observer()),
    )
    trial.start()
    trial.join()
    assert len(pins) == 200
    assert _resident_mb() < before + 100
