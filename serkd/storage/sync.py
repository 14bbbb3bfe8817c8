"""Files that are written while others read them: kept the same here and in the object store.

Runs and sweeps are folders of small files, some of which grow. They are fetched before work on
them begins, and what has changed is uploaded, file by file, every few seconds and at the end.
What a file was like on either side when both were last the same is noted beside the mirror.
"""

import json
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serkd.errors import InputError
from serkd.files import write_json
from serkd.storage.mirror import Mirror, find_mirror, open_storage
from serkd.storage.objects import Entry, is_uri
from serkd.storage.owner import owned

logger = logging.getLogger(__name__)
EVERY_S = 10.0
_NOTES = ".sync"  # below the mirror's root
_LOCAL_ONLY = frozenset({"tune"})  # Tune's own state: a sweep goes on from its ledger

Stamp = list[int]  # size and time of change, here and there


@contextmanager
def synced(folder: Path, *, has_owner: bool = False) -> Iterator[None]:
    """Keep a folder of a mirror as it is in the object store while the block runs.

    Does nothing where storage is a folder. With `has_owner`, nobody else may do so meanwhile.

    Raises:
        InputError: somebody else does.
    """
    mirror = find_mirror(folder)
    if mirror is None:
        yield
        return
    with owned(mirror, folder, EVERY_S) if has_owner else _nobody():
        sync = Sync(mirror, folder)
        sync.pull()
        done = threading.Event()
        pushing = threading.Thread(target=sync.push_until, args=(done,), daemon=True)
        pushing.start()
        try:
            yield
        finally:
            done.set()
            pushing.join()
            sync.pull()  # what others wrote: trials on other machines
            sync.push()


def open_folder(place: str | Path) -> Path:
    """The folder of a run or sweep, fetched if it is `s3://bucket/path/sweeps/name`.

    Raises:
        InputError: a URI that is not of a run or sweep.
    """
    if not is_uri(str(place)):
        return Path(place)
    found = re.fullmatch(r"(?P<storage>.+)/(?P<folder>(runs|sweeps)/[^/]+)/?", str(place))
    if found is None:
        raise InputError(f"must be of a run or sweep, like s3://bucket/path/runs/name, got {place}")
    folder = open_storage(found["storage"]) / found["folder"]
    pull(folder)
    return folder


@contextmanager
def _nobody() -> Iterator[None]:
    yield


def pull(path: Path) -> None:
    """Have a file of a mirror, or those of a folder, as they are in the object store."""
    if (mirror := find_mirror(path)) is not None:
        Sync(mirror, path).pull()


def push(path: Path) -> None:
    """Upload a file of a mirror, or those of a folder, where they have changed."""
    if (mirror := find_mirror(path)) is not None:
        Sync(mirror, path).push()


class Sync:
    """A file or folder of a mirror, and what is known of both sides."""

    def __init__(self, mirror: Mirror, place: Path) -> None:
        self.mirror, self.path = mirror, mirror.path_of(place)
        self.local = mirror.root / self.path
        self.notes = mirror.root / _NOTES / f"{self.path.replace('/', '--')}.json"
        self.known: dict[str, tuple[Stamp, Stamp]] = {}
        if self.notes.is_file():
            found = json.loads(self.notes.read_text(encoding="utf-8"))
            self.known = {path: (here, there) for path, (here, there) in found.items()}

    def pull(self) -> None:
        """Fetch what has changed there."""
        for entry in self._entries():
            here = self.mirror.root / entry.path
            if _is_local_only(entry.path) or self._there(entry.path) == _version(entry):
                continue
            content = self.mirror.store.read(entry.path)
            if content is None or (here.is_file() and self._keeps(entry, here, content)):
                continue
            here.parent.mkdir(parents=True, exist_ok=True)
            temporary = here.with_name(f".{here.name}.fetched")
            temporary.write_bytes(content)
            temporary.replace(here)
            self.known[entry.path] = (_stamp(here), _version(entry))
        self._write_notes()

    def _entries(self) -> list[Entry]:
        found = self.mirror.store.list(self.path)
        return found or self.mirror.store.stat(self.path)

    def _keeps(self, entry: Entry, here: Path, content: bytes) -> bool:
        """Whether what is here stays: it is what is there, perhaps with more at its end."""
        stamp, ours = _stamp(here), here.read_bytes()
        if ours == content:
            self.known[entry.path] = (stamp, _version(entry))
        if ours.startswith(content):
            return True
        if self._here(entry.path) != stamp:
            aside = here.with_name(f".{here.name}.replaced")
            logger.warning("%s differs from the object store's: it is now %s", here, aside.name)
            here.replace(aside)
        return False

    def push(self) -> None:
        """Upload what has changed here."""
        files = [self.local] if self.local.is_file() else sorted(self.local.rglob("*"))
        for here in files:
            path = here.relative_to(self.mirror.root).as_posix()
            if _is_local_only(path) or not here.is_file() or self._here(path) == _stamp(here):
                continue
            stamp = _stamp(here)  # before: what is added while it is read goes with the next
            entry = self.mirror.store.write(path, here.read_bytes())
            self.known[path] = (stamp, _version(entry))
        self._write_notes()

    def push_until(self, done: threading.Event) -> None:
        """Upload every few seconds; when the store does not answer, next time."""
        while not done.wait(EVERY_S):
            try:
                self.push()
            except OSError as error:
                logger.warning("%s: could not be uploaded, will try again: %s", self.local, error)

    def _here(self, path: str) -> Stamp | None:
        return self.known[path][0] if path in self.known else None

    def _there(self, path: str) -> Stamp | None:
        return self.known[path][1] if path in self.known else None

    def _write_notes(self) -> None:
        """Lost notes cost an upload of what is there already."""
        write_json(self.notes, self.known)


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _version(entry: Entry) -> Stamp:
    return [entry.size, entry.mtime_ns]


def _is_local_only(path: str) -> bool:
    """Below a folder of its own, or a name with a dot: temporary files, locks."""
    return any(part in _LOCAL_ONLY or part.startswith(".") for part in Path(path).parts)
