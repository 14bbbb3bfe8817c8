"""The stages that make pseudo-labels: centroids and units of a layer's scales."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from serkd.features.parts import split_frames
from serkd.features.store import Frames, read_frames
from serkd.gender import GENDER_SLOTS, num_units
from serkd.stages.context import Context
from serkd.stages.frames import extract, write_json
from serkd.units.assign import UnitEncoder
from serkd.units.genders import unit_genders
from serkd.units.nearest import Codebook
from serkd.units.quality import Labels, compute_quality, count_pairs
from serkd.units.scale import Fitted

_log = logging.getLogger(__name__)


def run_centroids(contexts: Sequence[Context]) -> None:
    """k-means of a layer's scales on the fold's training frames, or one for each gender.

    Centroids are (K, D), or (2 K, D) with the female ones first, so that a row is a unit.
    """
    is_apart = contexts[0].config("units.gender_mode.is_apart")
    genders = GENDER_SLOTS if is_apart else (None,)
    fitted = [_fit(contexts, gender) for gender in genders]
    for context in contexts:
        _write_centroids(context, [found[context.ref.scale[1]] for found in fitted])


def _fit(contexts: Sequence[Context], gender: str | None) -> dict[int, Fitted]:
    """All scales in the same passes over the frames of one gender, or of both."""
    context = contexts[0]
    by_id, clustering = context.fold.manifest.by_id, context.compute.clustering
    clustering.load(
        _states(context),
        f"layer_{context.ref.scale[0]}",
        [i for i in context.fold.train if gender in (None, by_id[i].gender)],
        max_points=context.config("units.max_points"),
        seed=context.config("seed"),
        cache_bytes=context.experiment.train.cache_gb * 1e9,
    )
    return clustering.fit(
        [one.ref.scale[1] for one in contexts],
        max_iterations=context.config("units.max_iterations"),
        tolerance=context.config("units.tolerance"),
        seed=context.config("seed"),
        balanced=context.config("units.balanced"),
    )


def _states(context: Context) -> Path:
    """The frames that are clustered."""
    is_tuned = context.config("units.source") == "extractor"
    return context.input("hidden" if is_tuned else "features").folder


def _write_centroids(context: Context, fitted: Sequence[Fitted]) -> None:
    tensors = {"centroids": np.concatenate([found.centroids for found in fitted])}
    if context.config("units.balanced"):
        tensors["prices"] = np.concatenate([found.prices for found in fitted])
    save_file(tensors, context.folder / "centroids.safetensors", context.lineage)
    is_apart = len(fitted) > 1
    summary = {
        "max_points": context.config("units.max_points"),
        "balanced": context.config("units.balanced"),
        "num_points": [int(found.counts.sum()) for found in fitted],  # of each k-means
        "inertia": [list(found.inertia) for found in fitted],
        "genders": list(GENDER_SLOTS) if is_apart else None,
    }
    write_json(context.folder / "fit.json", {**_describe(context), **summary})


def _describe(context: Context) -> dict[str, Any]:
    """What a reader of the files must know, without this program."""
    layer, num_clusters = context.ref.scale
    return {
        **context.facts,
        "source": context.config("units.source"),
        "layer": layer,
        "num_clusters": num_clusters,
        "seed": context.config("seed"),
    }


def run_units(contexts: Sequence[Context]) -> None:
    """Units of all utterances at a layer's scales, and what they say of the training utterances."""
    first = contexts[0]
    in_units = first.config("units.gender_mode.in_units")
    genders = unit_genders(in_units, first.fold, first.config("seed"))
    books = {f"units_{context.ref.scale[1]}": _read_codebooks(context) for context in contexts}
    parts = split_frames(_states(first), f"layer_{first.ref.scale[0]}")
    extract(contexts, parts, UnitEncoder(books, genders), list(books), "units")
    meaning = "cluster" if genders is None else "cluster + num_clusters * gender"
    slots = None if genders is None else GENDER_SLOTS
    for context in contexts:
        size = num_units(context.ref.scale[1], in_units)
        fit = json.loads((context.input("centroids").folder / "fit.json").read_text("utf-8"))
        about = {
            "num_points": fit["num_points"],
            "num_units": size,
            "unit": meaning,
            "gender_in_units": in_units,
            "genders": slots,
        }
        write_json(context.folder / "units.json", {**_describe(context), **about})
        _write_quality(context, genders, size)


def _read_codebooks(context: Context) -> list[Codebook]:
    """One for all, or one of each gender."""
    tensors = load_file(context.fitted_file("centroids", "centroids.safetensors"))
    num_books = len(tensors["centroids"]) // context.ref.scale[1]
    centroids = np.split(tensors["centroids"], num_books)
    prices = np.split(tensors["prices"], num_books) if "prices" in tensors else [None] * num_books
    return [Codebook(*pair) for pair in zip(centroids, prices, strict=True)]


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
