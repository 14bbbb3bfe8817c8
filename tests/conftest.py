"""Shared fixtures: a tiny HuBERT, a synthetic corpus, one local Ray per session."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# before Ray is imported anywhere
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from serkd.config import Experiment
from serkd.corpora.build import build_manifest
from serkd.corpora.manifest import Manifest, write_manifest
from serkd.corpora.synthetic import write_corpus
from serkd.recipe import build_experiment

# the same examples in every run: a suite that fails now and then says nothing
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# small enough that a whole experiment takes seconds
TINY: dict[str, object] = {
    "protocol.num_folds": 3,
    "units.layers": [2],
    "units.num_clusters": [4, 8],
    "units.max_iterations": 5,
    "extractor.fit.epochs": 1,
    "extractor.fit.batch_size": 8,
    "teacher.stage1.fit.epochs": 1,
    "teacher.stage1.fit.batch_size": 8,
    "teacher.stage2.fit.epochs": 2,
    "teacher.stage2.fit.batch_size": 8,
    "student.width": 16,
    "student.depth": 2,
    "student.fit.epochs": 2,
    "student.fit.batch_size": 8,
}


@pytest.fixture(scope="session")
def manifest_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic corpus of 6 speakers, 4 emotions, 2 takes: 48 utterances."""
    folder = tmp_path_factory.mktemp("corpus")
    sources = write_corpus(folder, num_speakers=6, utterances_per_emotion=2, seed=0)
    write_manifest(build_manifest(sources), folder / "manifest.parquet")
    return folder / "manifest.parquet"


@pytest.fixture(scope="session")
def manifest(manifest_path: Path) -> Manifest:
    from serkd.corpora.manifest import read_manifest

    return read_manifest(manifest_path)


@pytest.fixture(scope="session")
def tiny(manifest_path: Path) -> Experiment:
    """An experiment on the synthetic corpus that runs in seconds."""
    return build_experiment({}, {**TINY, "corpus.manifest": str(manifest_path)})


@pytest.fixture(scope="session")
def tiny_recipe(manifest_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a YAML file (JSON is YAML)."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    nested: dict[str, object] = {"corpus": {"manifest": str(manifest_path)}}
    for dotted, value in TINY.items():
        *parents, leaf = dotted.split(".")
        section = nested
        for name in parents:
            section = section.setdefault(name, {})  # type: ignore[assignment]
        section[leaf] = value
    path.write_text(json.dumps(nested), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray with two CPUs, for all tests that need one."""
    import ray

    from serkd.runtime import start_ray

    start_ray(num_cpus=2)
    yield
    ray.shutdown()
