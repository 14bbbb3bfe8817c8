"""Who drives a sweep: an object that its driver renews, so that no second one joins in."""

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serkd.errors import InputError
from serkd.storage.mirror import Mirror, find_mirror

logger = logging.getLogger(__name__)
_NAME = ".driver"


@contextmanager
def owned(mirror: Mirror, folder: Path, every_s: float) -> Iterator[None]:
    """Own a folder of an object store while the block runs.

    An owner that was killed renews nothing: the next waits a little longer than `every_s`, and
    takes its place. Stores compare no versions when they write, so of two that begin within the
    same second one may not be noticed.

    Raises:
        InputError: somebody else owns it.
    """
    path = f"{mirror.path_of(folder)}/{_NAME}"
    before = mirror.store.read(path)
    if before is not None and not _is_dead(before):
        logger.warning("%s: waiting to see whether %s still runs", folder.name, _name(before))
        time.sleep(1.5 * every_s)
        if (now := mirror.store.read(path)) not in (None, before):
            raise InputError(
                f"{mirror.uri}/{mirror.path_of(folder)}: must have one driver at a time, and "
                f"{_name(now or before)} is at work"
            )
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(mirror, path, every_s, done), daemon=True)
    mirror.store.write(path, _mark())
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        mirror.store.delete([path])


def find_owners(folder: Path) -> list[str]:
    """Who owns what below a folder of an object store, or did when it was killed."""
    mirror = find_mirror(folder)
    if mirror is None:
        return []
    marks = [
        e.path for e in mirror.store.list(mirror.path_of(folder)) if Path(e.path).name == _NAME
    ]
    found = {path: mirror.store.read(path) for path in marks}
    return [
        f"{_name(mark)} drives {path.removesuffix(f'/{_NAME}')}"
        for path, mark in found.items()
        if mark is not None and not _is_dead(mark)
    ]


def _renew(mirror: Mirror, path: str, every_s: float, done: threading.Event) -> None:
    while not done.wait(every_s):
        try:
            mirror.store.write(path, _mark())
        except OSError as error:
            logger.warning("%s could not be renewed: %s", path, error)


def _mark() -> bytes:
    mark = {"host": platform.node(), "pid": os.getpid(), "renewal": uuid.uuid4().hex}
    return json.dumps(mark).encode()


def _name(mark: bytes) -> str:
    found = json.loads(mark)
    return f"process {found['pid']} of {found['host']}"


def _is_dead(mark: bytes) -> bool:
    """Surely dead: of this machine, and there is no such process."""
    found = json.loads(mark)
    if found["host"] != platform.node():
        return False
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return found["pid"] == os.getpid()
