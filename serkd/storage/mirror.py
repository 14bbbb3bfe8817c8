"""A folder of this machine that stands for an object store.

All code works on folders. Where storage is an object store, the folder is a mirror: a marked
folder below the cache of this machine, which stages are fetched into when they are read, and
results are synchronised with. It can be removed at any time: what was finished is in the store.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkd.errors import InputError
from serkd.files import write_json
from serkd.storage.objects import ObjectStore, check_uri, connect, is_uri

_MARK = ".mirror.json"
_PROBE = ".serkd"
_CACHE_VARIABLE = "SERKD_CACHE"


@dataclass(frozen=True)
class Mirror:
    """The folder `root`, and the URI that it stands for."""

    root: Path
    uri: str

    @property
    def store(self) -> ObjectStore:
        return connect(self.uri)

    def path_of(self, local: Path) -> str:
        """An object's path, from that of its file."""
        return local.resolve().relative_to(self.root).as_posix()


def open_storage(place: str | Path) -> Path:
    """The folder of a storage: itself, or this machine's mirror of an object store.

    Raises:
        InputError: a URI of something else, or a bucket that cannot be read and written.
    """
    if not is_uri(str(place)):
        return Path(place)
    uri = check_uri("--storage", str(place))
    store = connect(uri)
    if store.read(_PROBE) is None:
        try:
            store.write(_PROBE, b"a storage of serkd\n")
        except OSError as error:
            raise InputError(f"{uri}: must be a bucket to write to, but: {error}") from error
    root = _mirror_root(uri)
    if not (root / _MARK).is_file():
        write_json(root / _MARK, {"uri": uri})
    return root


def find_mirror(path: Path) -> Mirror | None:
    """The mirror that a path is in, if it is in one."""
    for folder in (path.resolve(), *path.resolve().parents):
        if (folder / _MARK).is_file():
            found = json.loads((folder / _MARK).read_text(encoding="utf-8"))
            return Mirror(folder, found["uri"])
    return None


def name_storage(root: Path) -> str:
    """What opens the same storage on another machine: the URI, or the folder's full path."""
    mirror = find_mirror(root)
    return str(root.resolve()) if mirror is None else mirror.uri


def locate(folder: Path) -> tuple[str, Any]:
    """The path of a folder on all machines, and the filesystem of pyarrow for it, or None."""
    mirror = find_mirror(folder)
    if mirror is None:
        return str(folder.resolve()), None
    return f"{mirror.store.base}/{mirror.path_of(folder)}", mirror.store.filesystem


def _mirror_root(uri: str) -> Path:
    cache = Path(os.environ.get(_CACHE_VARIABLE, "~/.cache/serkd")).expanduser()
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", uri)[:60]
    return cache.resolve() / f"{name}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
