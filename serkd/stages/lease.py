"""Single flight: one process computes a key, the others wait and then read.

Two guards, taken in this order. Over a Ray cluster a named actor grants leases, which end when
the holder stops renewing them. On one machine a file lock, which the system drops when the holder
dies, also covers processes that belong to different clusters.
"""

import fcntl
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ray

_ACTOR = "serkd-leases"
_EXPIRES_AFTER_S = 30.0
_RENEW_EVERY_S = 5.0
_ASK_EVERY_S = 0.5


class StageBusyError(RuntimeError):
    """Another process computes the stage of `key`, and the caller did not want to wait for it."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class LeaseTable:
    """Who computes what; `clock` returns seconds."""

    def __init__(self) -> None:
        self.holders: dict[str, tuple[str, float]] = {}

    def acquire(self, key: str, holder: str, now: float | None = None) -> bool:
        """Grant or renew a lease. False: somebody else holds it and is alive."""
        now = time.monotonic() if now is None else now
        current, renewed = self.holders.get(key, (holder, now))
        if current != holder and now - renewed < _EXPIRES_AFTER_S:
            return False
        self.holders[key] = (holder, now)
        return True

    def release(self, key: str, holder: str) -> None:
        """Give a lease back; not holding it is fine."""
        if self.holders.get(key, ("", 0.0))[0] == holder:
            del self.holders[key]


@contextmanager
def hold(key: str, lock_path: Path, *, waits: bool = True) -> Iterator[None]:
    """Hold the lease of `key` while the block runs; wait for it first.

    Raises:
        StageBusyError: somebody holds it and `waits` is False.
    """
    with _cluster_lease(key, waits=waits), _file_lock(lock_path, key, waits=waits):
        yield


@contextmanager
def _cluster_lease(key: str, *, waits: bool) -> Iterator[None]:
    if not ray.is_initialized():
        yield
        return
    holder = uuid.uuid4().hex
    while not _ask(key, holder):
        if not waits:
            raise StageBusyError(key)
        time.sleep(_ASK_EVERY_S)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(key, holder, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        with suppress(ray.exceptions.RayActorError):  # gone, and the lease with it
            ray.get(_table().release.remote(key, holder))


def _table() -> ray.actor.ActorHandle:
    # detached: outlives the trial that happened to ask first
    options = {"name": _ACTOR, "namespace": "serkd", "lifetime": "detached", "num_cpus": 0}
    return ray.remote(LeaseTable).options(**options, get_if_exists=True).remote()


def _ask(key: str, holder: str) -> bool:
    try:
        return bool(ray.get(_table().acquire.remote(key, holder)))
    except ray.exceptions.RayActorError:
        return False  # the actor died: the next call makes a new one, and holders renew into it


def _renew(key: str, holder: str, done: threading.Event) -> None:
    while not done.wait(_RENEW_EVERY_S):
        _ask(key, holder)


@contextmanager
def _file_lock(path: Path, key: str, *, waits: bool) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageBusyError(key) from None
        yield  # closing the file unlocks it


def lock_now(path: Path, held: ExitStack) -> bool:
    """Take a file's lock until `held` closes, if nobody has it; False: somebody has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = held.enter_context(path.open("a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds a file's lock."""
    with ExitStack() as held:
        return path.is_file() and not lock_now(path, held)
