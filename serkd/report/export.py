"""A run's trained teacher for other programs: what ``serkd export`` does."""

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from serkd.config import Experiment
from serkd.corpora.folds import Fold, select_folds
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.models.teacher import EmotionTeacher
from serkd.models.trunk import Trunk
from serkd.report.model_card import write_card
from serkd.report.results import is_run, read_run
from serkd.stages.catalogue import STAGES, TEACHER
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.train.teacher import build_teacher


def export_teacher(folder: Path, out: Path, fold_name: str | None) -> dict[str, Any]:
    """Write the teacher of a run's fold (its first by default) into the new folder `out`.

    Returns what was written of which fold. `out` appears whole or not at all.

    Raises:
        InputError: no run, no such fold, no stored teacher, or `out` has files.
    """
    from serkd.report.transformers_export import TransformersExport

    _require_empty(out)
    if not is_run(folder):
        raise InputError(f"{folder}: must be a folder that `serkd run` or `serkd teacher` finished")
    run = read_run(folder)
    if "teacher" not in run.models:
        raise InputError(f"{folder}: must be a run with a teacher, it has {', '.join(run.models)}")
    if run.experiment.distill.teacher == "random":
        raise InputError(f"{folder}: must be a run with a trained teacher, its teacher is random")
    names = list(run.results["folds"])
    name = names[0] if fold_name is None else fold_name
    if name not in names:
        raise InputError(f"--fold must be one that was run ({', '.join(names)}), got {name}")
    folds = read_folds(run.experiment.corpus, run.experiment.protocol)
    (fold,) = select_folds(folds, name)
    trunk, teacher = load_teacher(folder, run.experiment, fold)
    card = write_card(run, fold, trunk.backbone)
    trim = run.experiment.corpus.trim_silence_db
    export = TransformersExport(teacher, trunk, fold.manifest.class_names, card, trim)
    _write_whole(export, out)
    class_names = list(fold.manifest.class_names)
    return {"out": str(out), "run": str(folder), "fold": name, "class_names": class_names}


def load_teacher(folder: Path, experiment: Experiment, fold: Fold) -> tuple[Trunk, EmotionTeacher]:
    """The stored teacher of a run's fold, in eval mode, and what it stands on."""
    store = StageStore(folder.resolve().parent.parent)
    graph = Graph(STAGES, experiment, fold)
    artifact = store.find(TEACHER.stage, graph.key(TEACHER))
    if artifact is None:
        raise InputError(
            f"{folder}: the teacher of fold {fold.name} must be stored, but the corpus, the "
            "backbone or serkd itself has changed since, or it was removed: run it again"
        )
    artifact.require_fold(fold)
    settings = experiment.backbone
    trunk = Trunk(graph.backbone, settings.frozen_layers, settings.layer_mix)
    num_classes = len(fold.manifest.class_names)
    model = build_teacher(experiment.teacher.stage2, trunk.build_suffix(), trunk, num_classes)
    model.load_state_dict(load_file(artifact.fitted_file("model.safetensors", fold)))
    return trunk, model.eval()


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out must be a new or empty folder, {out} is not")
    if out.resolve() == Path.cwd():  # whoever is in it would stay in the folder that it replaces
        raise InputError(f"--out must not be the working directory, got {out}")


def _write_whole(export: Any, out: Path) -> None:  # noqa: ANN401  typing it would import torch
    """Into a folder beside it, which then takes its name."""
    place = out.resolve()  # nothing can take the name of a link to a folder
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        export.write(temporary)
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
