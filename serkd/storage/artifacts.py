"""Artifacts in an object store: what is complete can be seen, and nothing else.

Every publisher uploads to a folder of its own name, and writes `_COMPLETE` last, which names that
folder and its files. So whoever is killed leaves nothing that is seen, and two who publish the
same key at once leave one of the two, never a mixture.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkd.storage.objects import ObjectStore

_COMPLETE = "_COMPLETE"
_INFO = "stage.json"


@dataclass(frozen=True)
class StoredArtifact:
    """A published artifact: `files` maps the name of each of its files to its size in bytes."""

    store: ObjectStore
    path: str
    files: Mapping[str, int]
    info: Mapping[str, Any]

    def read_file(self, name: str) -> bytes | None:
        """One of its files, or None if it has no such file."""
        if name not in self.files:
            return None
        content = self.store.read(f"{self.path}/{name}")
        assert content is not None, f"{self.path}/{name} was published and is gone"
        return content

    def fetch(self, target: Path) -> None:
        """Have all files in the folder `target`, which appears whole; others may do the same.

        Raises:
            OSError: a file is not there, or not as long as it was when it was published.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # this machine needs it once
            if (target / _INFO).is_file():
                return
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            try:
                self._download(temporary)
                shutil.rmtree(target, ignore_errors=True)  # what an interrupted copy left
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _download(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, size in self.files.items():
            self.store.download(f"{self.path}/{name}", folder / name)
            if (found := (folder / name).stat().st_size) != size:
                raise OSError(f"{self.path}/{name} must have {size} bytes, it has {found}")


def find_artifact(store: ObjectStore, path: str) -> StoredArtifact | None:
    """What was published at a path, if its publisher came to the end."""
    content = store.read(f"{path}/{_COMPLETE}")
    if content is None:
        return None
    mark = json.loads(content)
    return StoredArtifact(store, f"{path}/{mark['folder']}", mark["files"], mark["info"])


def list_artifacts(store: ObjectStore, folder: str) -> dict[str, StoredArtifact]:
    """All that is published below a path, by its own."""
    mark = f"/{_COMPLETE}"
    marks = sorted(entry.path for entry in store.list(folder) if entry.path.endswith(mark))
    paths = [path.removesuffix(mark) for path in marks]
    found = {path: find_artifact(store, path) for path in paths}
    return {path: each for path, each in found.items() if each is not None}  # some may be gone


def upload_artifact(store: ObjectStore, path: str, built: Path) -> bool:
    """Publish the folder `built`, which has a stage.json.

    False: somebody else published this key meanwhile, and that is what others read.
    """
    if find_artifact(store, path) is not None:
        return False
    folder = uuid.uuid4().hex
    files = {
        local.relative_to(built).as_posix(): local.stat().st_size
        for local in sorted(built.rglob("*"))
        if local.is_file()
    }
    for name in files:
        store.upload(built / name, f"{path}/{folder}/{name}")
    if find_artifact(store, path) is not None:  # somebody was faster
        store.delete([f"{path}/{folder}/{name}" for name in files])
        return False
    info = json.loads((built / _INFO).read_text(encoding="utf-8"))
    mark = {"folder": folder, "files": files, "info": info}
    store.write(f"{path}/{_COMPLETE}", json.dumps(mark).encode())
    seen = find_artifact(store, path)  # of two at the same moment, the last one's
    return seen is not None and seen.path == f"{path}/{folder}"


def delete_artifact(store: ObjectStore, path: str) -> None:
    """Remove what is at a path, its mark first."""
    paths = [entry.path for entry in store.list(path)]
    store.delete(sorted(paths, key=lambda name: not name.endswith(f"/{_COMPLETE}")))
