"""Gender modes through the stages: what they share, and what their units are."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from scipy.spatial.distance import cdist
from weights import find_moved, fit_weights

from serkd.config import Experiment
from serkd.corpora.manifest import Utterance
from serkd.errors import InputError
from serkd.events import Observer
from serkd.features.store import Frames, read_frames
from serkd.gender import GENDER_SLOTS, GenderMode
from serkd.stages.catalogue import STAGE_1
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.units.actors import Clustering
from serkd.units.genders import unit_genders

BuildGraph = Callable[..., Graph]
LAYER, K = 2, 4
HIDDEN = Ref("hidden", (LAYER,))
UNITS, CENTROIDS = Ref("units", (LAYER, K)), Ref("centroids", (LAYER, K))


def _graph(build_graph: BuildGraph, mode: GenderMode, **changes: object) -> Graph:
    return build_graph({"units.gender_mode": str(mode), "units.num_clusters": [K], **changes})


def _stages_shared(first: Graph, second: Graph) -> set[str]:
    refs = first.closure([STAGE_1])
    return {ref.stage for ref in refs if first.key(ref) == second.key(ref)}


def test_modes_share_the_stages_in_which_they_are_alike(build_graph: BuildGraph) -> None:
    mtl, none, joint, apart, shuffled = (_graph(build_graph, mode) for mode in GenderMode)
    before = {"features", "extractor", "hidden"}
    assert _stages_shared(mtl, none) == {"features"}
    assert _stages_shared(mtl, joint) == before | {"centroids"}
    assert _stages_shared(mtl, shuffled) == before | {"centroids"}
    assert _stages_shared(joint, shuffled) == before | {"centroids"}
    assert _stages_shared(joint, apart) == before


def _with_genders(graph: Graph, genders: Callable[[Utterance], str]) -> Graph:
    """The same fold of a corpus that says other genders."""
    rows = tuple(replace(u, gender=genders(u)) for u in graph.fold.manifest.utterances)
    manifest = replace(graph.fold.manifest, utterances=rows)
    return Graph(graph.stages, graph.experiment, replace(graph.fold, manifest=manifest))


@pytest.mark.parametrize("mode", GenderMode)
def test_a_gender_that_no_model_learns_matters_to_units_that_say_it(
    build_graph: BuildGraph, mode: GenderMode
) -> None:
    """All utterances have units, those of the test split too."""
    other, before = {"female": "male", "male": "female"}, _graph(build_graph, mode)
    test = before.fold.test
    after = _with_genders(before, lambda u: other[u.gender] if u.utt_id in test else u.gender)
    assert before.key(CENTROIDS) == after.key(CENTROIDS)
    assert (before.key(UNITS) == after.key(UNITS)) == (mode.in_units == "no")


@pytest.fixture(scope="module")
def store(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    """The stages of `mtl`; what other modes add stays apart from them."""
    folder = tmp_path_factory.mktemp("modes") / "storage"
    shutil.copytree(storage, folder)
    return StageStore(folder)


def _run(graph: Graph, store: StageStore) -> tuple[Frames, Path, Path]:
    """Units, and the folders of units and centroids."""
    artifacts, _ = graph.run([UNITS, CENTROIDS], store, Compute(), Observer())
    folder = artifacts[UNITS].folder
    return read_frames(folder, "units"), folder, artifacts[CENTROIDS].folder


def _nearest(graph: Graph, store: StageStore, books: np.ndarray, slots: dict[str, int]) -> Frames:
    """Exact clusters of all utterances, each from the codebook of its slot."""
    hidden = store.folder("hidden", graph.key(HIDDEN))
    frames = read_frames(hidden, f"layer_{LAYER}")
    ids = [
        cdist(frames[i].astype(np.float64), books[slots[u]].astype(np.float64)).argmin(axis=1)
        for i, u in enumerate(frames.utt_ids)
    ]
    return replace(frames, values=np.concatenate(ids))


@pytest.mark.parametrize("mode", GenderMode)
def test_units_are_the_nearest_cluster_and_the_gender_that_the_mode_says(
    build_graph: BuildGraph, store: StageStore, mode: GenderMode
) -> None:
    graph = _graph(build_graph, mode)
    units, folder, fitted = _run(graph, store)
    centroids = load_file(fitted / "centroids.safetensors")["centroids"]
    assert len(centroids) == (2 * K if mode is GenderMode.per_gender else K)
    genders = unit_genders(mode.in_units, graph.fold, graph.experiment.seed)
    slots = genders or dict.fromkeys(units.utt_ids, 0)
    books = centroids.reshape(-1, K, centroids.shape[1])
    which = slots if mode.is_apart else dict.fromkeys(units.utt_ids, 0)
    clusters = _nearest(graph, store, books, which)
    said = np.repeat([slots[u] for u in units.utt_ids], units.lengths)
    assert np.array_equal(units.values, clusters.values + K * said)
    quality = json.loads((folder / "quality.json").read_text())
    assert quality["num_units"] == (K if genders is None else 2 * K)
    if mode.in_units == "known":
        assert (quality["gender_purity"], quality["gender_pnmi"]) == pytest.approx((1.0, 1.0))
    table = load_file(folder / "quality.safetensors")["emotion"]
    assert table.shape == (4, quality["num_units"])
    train = units.select(graph.fold.train).values
    assert np.array_equal(table.sum(axis=0), np.bincount(train, minlength=table.shape[1]))


def test_per_gender_fits_each_gender_on_its_own_training_frames(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph = _graph(build_graph, GenderMode.per_gender, **{"units.num_clusters": [K, 6]})
    artifacts, _ = graph.run(
        [CENTROIDS, Ref("centroids", (LAYER, 6))], store, Compute(), Observer()
    )
    hidden = store.folder("hidden", graph.key(HIDDEN))
    by_id, settings = graph.fold.manifest.by_id, graph.experiment.units
    for slot, gender in enumerate(GENDER_SLOTS):
        mine = [i for i in graph.fold.train if by_id[i].gender == gender]
        alone = Clustering()
        alone.load(hidden, f"layer_{LAYER}", mine)
        for ref, artifact in artifacts.items():
            if ref.stage != "centroids":
                continue
            found = load_file(artifact.folder / "centroids.safetensors")["centroids"]
            size = ref.scale[1]
            expected = alone.fit(
                [size],
                max_iterations=settings.max_iterations,
                tolerance=settings.tolerance,
                seed=graph.experiment.seed,
            )[size]
            np.testing.assert_array_equal(
                found[slot * size : (slot + 1) * size], expected.centroids
            )


@pytest.mark.parametrize("mode", [GenderMode.joint, GenderMode.per_gender])
def test_stage_1_has_a_head_for_every_unit(
    build_graph: BuildGraph, store: StageStore, mode: GenderMode
) -> None:
    artifacts, _ = _graph(build_graph, mode).run([STAGE_1], store, Compute(), Observer())
    weights = load_file(artifacts[STAGE_1].folder / "model.safetensors")
    heads = [value for name, value in weights.items() if name.startswith("heads.0.")]
    assert {2 * K} == {len(value) for value in heads if value.ndim == 1} - {256}


def test_artifacts_say_what_they_are_without_the_program(
    build_graph: BuildGraph, store: StageStore
) -> None:
    graph = _graph(build_graph, GenderMode.per_gender)
    _, folder, fitted = _run(graph, store)
    same = {
        "layer": LAYER,
        "num_clusters": K,
        "seed": graph.experiment.seed,
        "backbone": graph.backbone.weight_hash,
        "fold": "1",
        "train_hash": graph.fold.train_hash,
    }
    fit, units = (json.loads(p.read_text()) for p in (fitted / "fit.json", folder / "units.json"))
    assert same.items() <= fit.items()
    assert same.items() <= units.items()
    assert "0 enters the first layer" in fit["layers"]
    assert fit["padding"].startswith("none") and units["padding"] == fit["padding"]
    hidden = read_frames(store.folder("hidden", graph.key(HIDDEN)), f"layer_{LAYER}")
    by_id = graph.fold.manifest.by_id
    of_train = hidden.select(graph.fold.train)
    points = {gender: 0 for gender in GENDER_SLOTS}
    for utt_id, length in zip(of_train.utt_ids, of_train.lengths, strict=True):
        points[by_id[utt_id].gender] += int(length)
    assert fit["num_points"] == units["num_points"] == list(points.values())
    assert units["genders"] == {"female": 0, "male": 1}
    assert (units["unit"], units["num_units"]) == ("cluster + num_clusters * gender", 2 * K)
    with safe_open(folder / "quality.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["lineage"])["train_hash"] == graph.fold.train_hash


def test_clusters_of_a_gender_must_not_outnumber_its_frames(build_graph: BuildGraph) -> None:
    fold = build_graph().fold
    durations = [fold.manifest.by_id[utt_id].duration_s for utt_id in fold.train]
    most = int(50 * sum(durations)) - 2  # of all frames: more than of either gender
    build_graph({"units.num_clusters": [most], "units.gender_mode": "joint"}).check([STAGE_1])
    graph = build_graph({"units.num_clusters": [most], "units.gender_mode": "per_gender"})
    with pytest.raises(InputError, match=r"must be at most .* of a gender, about"):
        graph.check([STAGE_1])


def test_genders_that_are_unknown_are_refused_before_any_work(build_graph: BuildGraph) -> None:
    def forget(utterance: Utterance) -> str:
        return "unknown" if utterance.utt_id.startswith("f00-") else utterance.gender

    _with_genders(build_graph(), forget).check([STAGE_1])
    graph = _with_genders(_graph(build_graph, GenderMode.joint), forget)
    with pytest.raises(InputError, match=r"units\.gender_mode must be .* 'joint' and 8 of 48"):
        graph.check([STAGE_1])


OUTRIGHT = {"extractor.emotion_weight": 1.0}  # gender is then in the units only
REACHED: dict[str, tuple[dict[str, object], set[str]]] = {
    "none": ({}, set()),
    "mtl, no second task": (OUTRIGHT, set()),
    # so high that some frame is nearer to another centroid
    "mtl": (
        {"extractor.fit.backbone_lr": 1e-2},
        {"extractor", "centroids 2/4", "teacher_units", "teacher"},
    ),
    "joint, no second task": (OUTRIGHT, {"teacher_units", "teacher"}),
    "per_gender, no second task": (OUTRIGHT, {"centroids 2/4", "teacher_units", "teacher"}),
}


@pytest.mark.parametrize("name", REACHED)
def test_genders_reach_the_stages_that_their_mode_says_and_no_other(
    build_graph: BuildGraph, tiny: Experiment, tmp_path: Path, name: str
) -> None:
    """Every woman of train becomes a man, and every man a woman."""
    changes, expected = REACHED[name]
    settings = {"units.gender_mode": name.split(",")[0], "units.num_clusters": [K], **changes}
    other, before = {"female": "male", "male": "female"}, build_graph()
    after = _with_genders(before, lambda u: other[u.gender])
    fitted = [
        fit_weights(tiny, settings, graph.fold, StageStore(tmp_path / str(i)))
        for i, graph in enumerate((before, after))
    ]
    assert find_moved(*fitted) == expected
