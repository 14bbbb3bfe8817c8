"""Artifacts on disk: found by key, published whole or not at all."""

import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkd.errors import InputError

_INFO = "stage.json"
_PACKAGES = ("serkd", "torch", "transformers", "ray", "numpy", "pyarrow", "soundfile", "soxr")


@dataclass(frozen=True)
class Artifact:
    """A published stage: its folder and what `stage.json` says of it."""

    folder: Path
    info: dict[str, Any]

    @property
    def seconds(self) -> float:
        """What computing it took."""
        return float(self.info["seconds"])

    def require_fold(self, fold: str, train_hash: str) -> None:
        """Refuse an artifact that was fitted on other utterances than those of a fold.

        Raises:
            InputError: it was fitted on another fold, or on a fold of this name with other data.
        """
        fitted_on = self.info["fold"]
        if fitted_on is not None and self.info["train_hash"] != train_hash:
            raise InputError(
                f"{self.folder}: must be fitted on fold {fold} (train {train_hash[:8]}), "
                f"but it was fitted on fold {fitted_on} (train {self.info['train_hash'][:8]})"
            )


class StageStore:
    """The artifacts below one storage folder."""

    def __init__(self, root: Path) -> None:
        if re.match(r"[a-z][a-z0-9]+:/", str(root)):  # Path makes one slash of two
            raise InputError(f"--storage must be a folder, got {root}")
        self.root = root / "stages"

    def folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def work(self, stage: str, key: str) -> Path:
        """Where an unfinished stage keeps its parts and checkpoints; survives its process."""
        return self.root / ".work" / f"{stage}-{key}"

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact, if it is complete."""
        folder = self.folder(stage, key)
        path = folder / _INFO
        if not path.is_file():
            return None
        return Artifact(folder, json.loads(path.read_text(encoding="utf-8")))

    def publish(self, stage: str, key: str, built: Path, info: Mapping[str, Any]) -> Artifact:
        """Move a finished folder to its place, atomically; the work folder goes.

        A rename makes it visible whole. If another process was faster, its result stays.
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
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            built.rename(target)
        except OSError:  # not empty: another publisher was faster, or a copy was interrupted
            if self.find(stage, key) is None:
                torn = target.with_name(f".torn-{uuid.uuid4().hex}")
                target.rename(torn)
                shutil.rmtree(torn)
                built.rename(target)
        _sync(target.parent)
        shutil.rmtree(self.work(stage, key), ignore_errors=True)
        found = self.find(stage, key)
        assert found is not None
        return found


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
