"""Some stages on their own: what ``serkd features`` and ``serkd cluster`` hand out."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serkd.config import Experiment
from serkd.corpora.folds import Fold, select_folds
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.events import Observer
from serkd.features.extract import EXTRACT_INFO
from serkd.files import write_json
from serkd.report.results import stage_row, unit_quality
from serkd.report.run import start_compute
from serkd.report.tensorboard import TensorBoard
from serkd.report.units import show_units
from serkd.stages.catalogue import STAGES, list_scales
from serkd.stages.context import Ref
from serkd.stages.graph import Graph
from serkd.stages.store import LAYER_ORDER, Artifact, StageStore

ABOUT = "about.json"
_READ = (
    "part-*.parquet: a row for each utterance with utt_id, num_frames and its frames as one "
    "row-major blob; the schema's metadata 'serkd' says a blob's dtype and width, 0 for one number "
    "a frame: numpy.frombuffer(blob, dtype).reshape(num_frames, width)"
)


def write_features(
    experiment: Experiment, layers: Sequence[int], storage: Path, out: Path, observer: Observer
) -> dict[str, Any]:
    """Layers of the pre-trained backbone for every utterance, below `out`/layer_<n>.

    All that are not stored yet come from one pass. Returns what about.json says.

    Raises:
        InputError: no such layer, or `out` has files already.
    """
    require_empty(out)
    fold = read_folds(experiment.corpus, experiment.protocol)[0]  # of which only the corpus counts
    graph = Graph(STAGES, experiment, fold)
    backbone = graph.backbone
    if outside := [n for n in layers if not 0 <= n <= backbone.num_layers]:
        raise InputError(
            f"--layers must be 0 to {backbone.num_layers} for {backbone.name}, got {outside}"
        )
    store, targets = StageStore(storage), [Ref("features", (n,)) for n in layers]
    compute = start_compute(experiment, [graph], targets, store)
    artifacts, results = graph.run(targets, store, compute, observer)
    for ref in targets:
        _link(artifacts[ref], out / f"layer_{ref.scale[0]}")
    extraction = json.loads((artifacts[targets[0]].folder / EXTRACT_INFO).read_text("utf-8"))
    about = {
        "what": "features",
        "layers": [f"layer_{n}" for n in layers],
        "backbone": {"name": backbone.name, "weights": backbone.weight_hash},
        "extraction": extraction,
        **_about(experiment, storage, [stage_row(result) for result in results]),
    }
    write_json(out / ABOUT, about)
    return about


def write_clusters(
    experiment: Experiment, fold_choice: str, storage: Path, out: Path, observer: Observer
) -> dict[str, Any]:
    """Centroids, units and their quality for each scale, below `out`/fold_<f>/layer_<n>_k_<K>.

    Pictures of the units are in `out`/fold_<f>, and in `out`/tensorboard.
    The units are those of `serkd run`. Returns what about.json says.

    Raises:
        InputError: what `Graph.check` refuses, or `out` has files already.
    """
    require_empty(out)
    folds = select_folds(read_folds(experiment.corpus, experiment.protocol), fold_choice)
    graphs = [Graph(STAGES, experiment, fold) for fold in folds]
    scales = list_scales(experiment)
    targets = [Ref(stage, scale) for stage in ("centroids", "units") for scale in scales]
    for graph in graphs:
        graph.check(targets)
    store, found, stages, artifacts = StageStore(storage), {}, [], {}
    compute = start_compute(experiment, graphs, targets, store)
    try:
        for graph in graphs:
            name = graph.fold.name
            artifacts[name], results = graph.run(targets, store, compute, observer)
            found[name] = {"units": unit_quality(artifacts[name])}
            stages += [stage_row(result) for result in results]
    finally:
        compute.close()
    # all at the end: a folder that is half full would be refused when the command is given again
    for graph in graphs:
        name = graph.fold.name
        for ref in targets:
            _link(artifacts[name][ref], out / scale_folder(graph.fold, ref))
        board = TensorBoard(out / "tensorboard" / f"fold_{name}")
        folder, names = out / f"fold_{name}", graph.fold.manifest.class_names
        show_units(board, folder, artifacts[name], found[name]["units"], names)
        board.close()
    about = {
        "what": "units",
        "fold_choice": fold_choice,
        **_about(experiment, storage, stages),
        "folds": found,
    }
    write_json(out / ABOUT, about)
    return about


def scale_folder(fold: Fold, ref: Ref) -> str:
    """Where a fold's units of a scale lie below a folder that holds several."""
    return f"fold_{fold.name}/layer_{ref.scale[0]}_k_{ref.scale[1]}"


def _about(
    experiment: Experiment, storage: Path, stages: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "how_to_read": _READ,
        "frame_rate_hz": 50,
        "layer_numbers": LAYER_ORDER,
        "storage": str(storage.resolve()),
        "stages": list(stages),
        "experiment": experiment.model_dump(mode="json"),
    }


def require_empty(out: Path) -> None:
    """Refuse a folder in which something would be replaced."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out must be a new or empty folder, but {out} is not")


def _link(artifact: Artifact, folder: Path) -> None:
    """The artifact's files in another place, by hard links where that is possible."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in artifact.folder.iterdir():
        if path.name == "stage.json":
            continue  # a folder may hold two stages; about.json names both
        try:
            os.link(path, folder / path.name)
        except OSError:  # another file system
            shutil.copy2(path, folder / path.name)
