"""The stages that make pseudo-labels: centroids and units of one scale."""

import logging
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from serkd.features.store import Frames, read_frames
from serkd.gender import GENDER_SLOTS, num_units
from serkd.stages.context import Context
from serkd.stages.frames import write_json
from serkd.units.assign import write_units
from serkd.units.genders import unit_genders
from serkd.units.kmeans import Fitted
from serkd.units.quality import Labels, compute_quality, count_pairs

_log = logging.getLogger(__name__)


def run_centroids(context: Context) -> None:
    """k-means of one scale on the fold's training frames, or one for each gender.

    Centroids are (K, D), or (2 K, D) with the female ones first, so that a row is a unit.
    """
    is_apart = context.config("units.gender_mode.is_apart")
    fitted = [_fit(context, gender) for gender in (GENDER_SLOTS if is_apart else (None,))]
    centroids = np.concatenate([found.centroids for found in fitted])
    save_file({"centroids": centroids}, context.folder / "centroids.safetensors", context.lineage)
    summary = {
        "max_points": context.config("units.max_points"),
        "num_points": [int(found.counts.sum()) for found in fitted],  # of each k-means
        "inertia": [list(found.inertia) for found in fitted],
        "genders": list(GENDER_SLOTS) if is_apart else None,
    }
    write_json(context.folder / "fit.json", {**_describe(context), **summary})


def _fit(context: Context, gender: str | None) -> Fitted:
    layer, num_clusters = _scale(context)
    folder = context.input("hidden").folder
    clustering = context.compute.clustering(folder, f"layer_{layer}", context, gender)
    return clustering.fit(
        num_clusters,
        max_iterations=context.config("units.max_iterations"),
        tolerance=context.config("units.tolerance"),
        seed=context.config("seed"),
        also=[ref.scale[1] for ref in context.siblings if ref.scale is not None],
    )


def _scale(context: Context) -> tuple[int, int]:
    assert context.ref.scale is not None
    return context.ref.scale


def _describe(context: Context) -> dict[str, Any]:
    """What a reader of the files must know, without this program."""
    layer, num_clusters = _scale(context)
    scale = {"layer": layer, "num_clusters": num_clusters, "seed": context.config("seed")}
    return {**context.facts, **scale}


def run_units(context: Context) -> None:
    """Units of all utterances at one scale, and what they say of the training utterances."""
    layer, num_clusters = _scale(context)
    in_units = context.config("units.gender_mode.in_units")
    genders = unit_genders(in_units, context.fold, context.config("seed"))
    centroids = load_file(context.fitted_file("centroids", "centroids.safetensors"))["centroids"]
    books = centroids.reshape(-1, num_clusters, centroids.shape[1])
    hidden = context.input("hidden").folder
    write_units(hidden, f"layer_{layer}", books, genders, context.folder, observer=context.observer)
    size = num_units(num_clusters, in_units)
    meaning = "cluster" if genders is None else "cluster + num_clusters * gender"
    about = {"num_units": size, "unit": meaning, "gender_in_units": in_units}
    slots = None if genders is None else GENDER_SLOTS
    write_json(context.folder / "units.json", {**_describe(context), **about, "genders": slots})
    _write_quality(context, genders, size)


def _write_quality(context: Context, genders: dict[str, int] | None, size: int) -> None:
    """Of the training frames only: dev and test are not looked at."""
    train_ids = context.fold.train
    units = read_frames(context.folder, "units", set(train_ids)).select(train_ids)
    labels = _labels(context, genders)
    found = compute_quality(units, labels, size, seed=context.config("seed"))
    for warning in found["warnings"]:
        _log.warning("%s: %s", context.ref, warning)
    write_json(context.folder / "quality.json", found)
    save_file(
        {"emotion": _emotion_table(units, labels, size)},
        context.folder / "quality.safetensors",
        context.lineage,
    )


def _labels(context: Context, genders: dict[str, int] | None) -> Labels:
    manifest, train_ids = context.fold.manifest, context.fold.train
    utterances = [manifest.by_id[utt_id] for utt_id in train_ids]
    known = np.unique([u.gender for u in utterances], return_inverse=True)[1]
    return Labels(
        emotion=np.array(manifest.labels(train_ids), np.int64),
        gender=known,
        speaker=np.unique([u.speaker_id for u in utterances], return_inverse=True)[1],
        slot=np.zeros_like(known) if genders is None else np.array([genders[i] for i in train_ids]),
    )


def _emotion_table(units: Frames, labels: Labels, size: int) -> np.ndarray:
    """Training frames of each emotion, in the order of the classes, and unit: (C, num_units)."""
    return count_pairs(np.repeat(labels.emotion, units.lengths), units.values, size)
