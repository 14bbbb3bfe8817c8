"""The built-in corpus, below a storage: what quickstart and `--smoke` run on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serkd.corpora.build import build_manifest
from serkd.corpora.manifest import write_manifest
from serkd.corpora.synthetic import write_corpus
from serkd.events import Observer
from serkd.writable import check_folder


def synthesise_corpus(folder: Path, observer: Observer) -> Path:
    """The built-in corpus below a storage's folder, unless it is there; returns its manifest."""
    check_folder("--storage", folder)
    path = folder / "corpus" / "manifest.parquet"

    def progress(done: int, total: int) -> None:
        observer.progress("synthesise", done, total, "files")

    if not path.is_file():
        write_manifest(build_manifest(write_corpus(path.parent, progress=progress)), path)
    return path


def use_synthetic(values: Mapping[str, Any], storage: Path, observer: Observer) -> dict[str, Any]:
    """Settings of `--smoke`: the built-in corpus unless another is named."""
    if "corpus.manifest" in values:
        return dict(values)
    return {**values, "corpus.manifest": str(synthesise_corpus(storage, observer).resolve())}
