"""What an ablation's folder says was asked for: arms, cells, and the corpus they are of."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from serkd.config import Experiment
from serkd.corpora.folds import Fold, hash_folds
from serkd.devices import describe_processor
from serkd.recipe import build_experiment
from serkd.report.answer import PLAN
from serkd.report.results import read_json
from serkd.search.cells import Cell, with_seed, with_settings
from serkd.search.designs import Arm, Study


def describe_data(study: Study, folds: Sequence[Fold]) -> dict[str, Any]:
    """The protocol stamp: what the numbers are of."""
    return {
        **describe_corpus(folds),
        "protocol": study.base.protocol.name,
        "machine": describe_processor(),
    }


def describe_corpus(folds: Sequence[Fold]) -> dict[str, Any]:
    """Its utterances and how they are divided."""
    manifest = folds[0].manifest
    return {
        "corpora": sorted({row.corpus for row in manifest.utterances}),
        "class_names": list(manifest.class_names),
        "num_utterances": len(manifest.utterances),
        "all_folds": [fold.name for fold in folds],
        "corpus_hash": manifest.audio_hash,
        "folds_hash": hash_folds(folds),
        "shares_speakers": any(fold.shares_speakers for fold in folds),
    }


def is_of_corpus(plan: Mapping[str, Any], folds: Sequence[Fold]) -> bool:
    """Whether the corpus and its folds are what they were."""
    now = describe_corpus(folds)
    return all(plan[name] == now[name] for name in ("corpus_hash", "folds_hash"))


def describe_study(
    study: Study,
    facts: Mapping[str, Any],
    folds: Sequence[str],
    experiments: Sequence[Experiment],
    tuned: Mapping[str, Mapping[str, Any]],
    groups: Sequence[Mapping[tuple[str, int], Cell]],
) -> dict[str, Any]:
    """All that a report needs to know of the plan."""
    rows = zip(study.arms, experiments, groups, strict=True)
    return {
        "name": study.name,
        "file": study.file.model_dump(mode="json"),
        **facts,
        "folds": list(folds),
        "num_arms_of_file": len(study.all_arms),
        "arms": [
            _describe_arm(arm, experiment, tuned[arm.name], cells)
            for arm, experiment, cells in rows
        ],
    }


def _describe_arm(
    arm: Arm,
    experiment: Experiment,
    tuned: Mapping[str, Any],
    cells: Mapping[tuple[str, int], Cell],
) -> dict[str, Any]:
    return {
        "name": arm.name,
        "also": list(arm.also),
        "settings": arm.settings,
        "levels": dict(arm.levels),
        "tuned": dict(tuned),
        "experiment": experiment.model_dump(mode="json"),
        "cells": [[fold, seed, cell.name] for (fold, seed), cell in cells.items()],
    }


def read_cells(plan: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[tuple[str, int], Cell]:
    """The cells of an arm of a plan, by fold and seed."""
    experiment = build_experiment(arm["experiment"], {}, origin=arm["name"])
    return {
        (fold, seed): Cell(with_seed(experiment, seed), fold, plan["file"]["model"])
        for fold, seed, _ in arm["cells"]
    }


def planned_cells(plan: Mapping[str, Any]) -> Iterator[Cell]:
    """Without those that another version of serkd has called something else."""
    for arm in plan["arms"]:
        names = {name for *_, name in arm["cells"]}
        yield from (cell for cell in read_cells(plan, arm).values() if cell.name in names)


def add_earlier(folder: Path, study: Study, plan: dict[str, Any]) -> dict[str, Any]:
    """With `--arm` and `--seeds`, what was asked for before is a part of the report all the same.

    As long as the file has the arm, with the same settings and tuning, and the corpus is the same:
    Holm's correction only grows by asking for arms one after the other.
    """
    earlier = read_json(folder / PLAN) if (folder / PLAN).is_file() else {}
    is_readable = earlier.keys() >= plan.keys()  # else another version of serkd wrote it
    same = ("corpus_hash", "folds_hash")
    if not is_readable or any(earlier[name] != plan[name] for name in same):
        return plan
    if earlier["file"]["retune"] != plan["file"]["retune"]:
        return plan
    now = {arm["name"]: arm for arm in plan["arms"]}
    before = {arm["name"]: arm for arm in earlier["arms"]}
    arms = []
    for arm in study.all_arms:
        new, old = now.get(arm.name), before.get(arm.name)
        cells = {} if old is None else _kept_cells(study, plan["folds"], arm, old, new)
        cells |= {(fold, seed): name for fold, seed, name in (new["cells"] if new else ())}
        if cells:
            order = sorted(cells, key=lambda pair: (pair[1], plan["folds"].index(pair[0])))
            arms.append({**(new or old or {}), "cells": [[*pair, cells[pair]] for pair in order]})
    seeds = sorted({seed for arm in arms for _, seed, _ in arm["cells"]})
    return {
        **plan,
        "arms": arms,
        "file": {**plan["file"], "seeds": seeds},
        "tuning_cells": sorted({*plan["tuning_cells"], *earlier["tuning_cells"]}),
        "command": " && ".join(dict.fromkeys([*earlier["command"].split(" && "), plan["command"]])),
    }


def _kept_cells(
    study: Study,
    folds: Sequence[str],
    arm: Arm,
    old: Mapping[str, Any],
    new: Mapping[str, Any] | None,
) -> dict[tuple[str, int], str]:
    """Names of the cells of an arm that was asked for before, if it is still what it was."""
    now = with_settings(arm.experiment, (new or old)["tuned"])
    if now.model_dump(mode="json") != old["experiment"]:
        return {}
    kept = {}
    for fold, seed, name in old["cells"]:
        is_same = Cell(with_seed(now, seed), fold, study.file.model).name == name
        if fold in folds and is_same:
            kept[fold, seed] = name
    return kept
