"""Artifacts: found by key, published whole or not at all.

They lie in folders. Where storage is an object store, those are this machine's copies, which are
fetched when somebody asks for the folder.
"""

import functools
import importlib.metadata
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from serkd.corpora.folds import Fold
from serkd.errors import InputError
from serkd.features.backbone import Backbone
from serkd.storage.artifacts import (
    StoredArtifact,
    delete_artifact,
    find_artifact,
    list_artifacts,
    upload_artifact,
)
from serkd.storage.mirror import Mirror, find_mirror
from serkd.storage.objects import is_uri

LAYER_ORDER = "transformers' order: 0 enters the first layer, 1..L are the layers' outputs"
PADDING = "none: the frames of an utterance are those that it has alone, at its own length"
_INFO = "stage.json"
_PACKAGES = ("serkd", "torch", "transformers", "ray", "numpy", "pyarrow", "soundfile", "soxr")


@dataclass(frozen=True)
class Artifact:
    """A published stage: where its folder is, or will be, and what `stage.json` says of it."""

    place: Path
    info: dict[str, Any]
    stored: StoredArtifact | None = None  # where the folder comes from

    @property
    def folder(self) -> Path:
        """Its files; of an object store they are fetched by whoever asks first."""
        if self.stored is not None:
            self.stored.fetch(self.place)
        return self.place

    def read_file(self, name: str) -> bytes | None:
        """One small file, without the others; None if there is no such file."""
        if self.stored is not None:
            return self.stored.read_file(name)
        path = self.place / name
        return path.read_bytes() if path.is_file() else None

    @property
    def seconds(self) -> float:
        """What computing it took."""
        return float(self.info["seconds"])

    def require_fold(self, fold: Fold) -> None:
        """Refuse an artifact that was fitted on other utterances than those of a fold.

        Raises:
            InputError: it was fitted on another fold, or on a fold of this name with other data.
        """
        if self.info["fold"] is not None:
            _require_same(str(self.place), self.info, fold)

    def fitted_file(self, name: str, fold: Fold) -> Path:
        """A safetensors file of this artifact, after a look at the lineage inside it.

        Raises:
            InputError: the file was fitted on another fold: somebody copied it here.
        """
        path = self.folder / name
        with safe_open(path, "numpy") as file:
            said = json.loads((file.metadata() or {}).get("lineage", "{}"))
        _require_same(str(path), said, fold)
        return path


def lineage(fold: Fold, backbone: Backbone, stage: str) -> dict[str, str]:
    """What every file of fitted numbers says of itself."""
    return {
        "stage": stage,
        "fold": fold.name,
        "train_hash": fold.train_hash,
        "backbone": backbone.weight_hash,
        "layers": LAYER_ORDER,
        "padding": PADDING,
    }


def _require_same(what: str, found: Mapping[str, Any], fold: Fold) -> None:
    on, train = found.get("fold", "unknown"), found.get("train_hash", "unknown")
    if train != fold.train_hash:
        raise InputError(
            f"{what}: must be fitted on fold {fold.name} (train {fold.train_hash[:8]}), "
            f"but it was fitted on fold {on} (train {train[:8]})"
        )


class StageStore:
    """The artifacts below one storage folder, which may be a mirror of an object store."""

    def __init__(self, root: Path) -> None:
        if is_uri(str(root)):  # of which Path made a folder's name; `open_storage` opens it
            raise InputError(f"--storage must be a folder, got {root}")
        if not next(path for path in (root, *root.absolute().parents) if path.exists()).is_dir():
            raise InputError(f"--storage must be a folder, but a file is in its way: {root}")
        # a worker of Ray Train has a working directory of its own
        self.root = root.resolve() / "stages"
        self.mirror = find_mirror(root)
        self._stored: dict[tuple[str, str], Artifact] = {}

    def folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def work(self, stage: str, key: str) -> Path:
        """Where an unfinished stage keeps its parts and checkpoints; survives its process."""
        return self.root / ".work" / f"{stage}-{key}"

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact, if it is complete."""
        folder = self.folder(stage, key)
        path = folder / _INFO
        if path.is_file():
            return Artifact(folder, json.loads(path.read_text(encoding="utf-8")))
        return None if self.mirror is None else self._find_stored(stage, key, self.mirror)

    def _find_stored(self, stage: str, key: str, mirror: Mirror) -> Artifact | None:
        if (stage, key) not in self._stored:
            folder = self.folder(stage, key)
            stored = find_artifact(mirror.store, mirror.path_of(folder))
            if stored is None:
                return None
            self._stored[stage, key] = Artifact(folder, dict(stored.info), stored)
        return self._stored[stage, key]

    def get(self, stage: str, key: str) -> Artifact:
        """The artifact, which must be there."""
        found = self.find(stage, key)
        assert found is not None, f"{stage} {key} was published and is gone"
        return found

    def list(self) -> list[Artifact]:
        """All that is published, by stage and key."""
        if self.mirror is None:
            paths = sorted(self.root.glob(f"*/*/{_INFO}"))
            return [Artifact(p.parent, json.loads(p.read_text(encoding="utf-8"))) for p in paths]
        found = list_artifacts(self.mirror.store, self.mirror.path_of(self.root))
        return [
            Artifact(self.mirror.root / path, dict(stored.info), stored)
            for path, stored in found.items()
        ]

    def delete(self, stage: str, key: str) -> None:
        """Gone at once for everybody who looks, whatever becomes of the rest.

        Copies that other machines have of an object store's stay where they are.
        """
        folder = self.folder(stage, key)
        self._stored.pop((stage, key), None)
        if self.mirror is not None:
            delete_artifact(self.mirror.store, self.mirror.path_of(folder))
        if folder.is_dir():
            gone = folder.with_name(f".gone-{uuid.uuid4().hex}")
            folder.rename(gone)
            shutil.rmtree(gone)

    def publish(self, stage: str, key: str, built: Path, info: Mapping[str, Any]) -> Artifact:
        """Move a finished folder to its place, atomically; the work folder goes.

        A rename makes it visible whole, in an object store the last object that is written. If
        another process was faster, its result stays.
        """
        files = [path for path in built.rglob("*") if path.is_file()]
        info = {
            **info,
            "stage": stage,
            "key": key,
            "bytes": sum(path.stat().st_size for path in files),
            "versions": _versions(),
        }
        (built / _INFO).write_text(json.dumps(info, indent=2), encoding="utf-8")
        for path in (*files, built / _INFO):
            _sync(path)
        _sync(built)
        target = self.folder(stage, key)
        mirror = self.mirror
        if mirror is None or upload_artifact(mirror.store, mirror.path_of(target), built):
            _place(built, target)
        shutil.rmtree(self.work(stage, key), ignore_errors=True)
        return self.get(stage, key)


def _place(built: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        built.rename(target)
    except OSError:  # not empty: another publisher was faster, or a copy was interrupted
        if not (target / _INFO).is_file():
            torn = target.with_name(f".torn-{uuid.uuid4().hex}")
            target.rename(torn)
            shutil.rmtree(torn)
            built.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {**found, "git": git.stdout.strip()} if git.returncode == 0 else found
