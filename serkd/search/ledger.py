"""What happened in a sweep: an append-only file of JSON lines, and the one truth about it."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from serkd.errors import InputError
from serkd.search.replay import Replay

_SYNC_S = 1.0


class LedgerError(OSError):
    """A record could not be written; the ledger holds whole records only."""


class Ledger:
    """Appends records and reads them back; a torn line, left by a crash, is passed over.

    One process appends at a time (see `lock`), any number may read. An append costs the same
    however long the file is. What was appended outlives its process at once, and its machine after
    a second: to wait for the disk at every record would be most of a short trial's time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._synced = -_SYNC_S

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only driver of this sweep; the system frees the lock if the process dies.

        Raises:
            InputError: another process drives it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise InputError(
                    f"{self.path.parent}: must have one driver at a time, "
                    f"{file.read().strip() or 'another process'} is running it"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
            try:
                yield
            finally:
                self.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record.

        Raises:
            LedgerError: it is not in the file; whatever part of it was written is taken back.
        """
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            file = self._open()
            end = file.seek(0, os.SEEK_END)
            if end and not self._ends_a_line(file):
                line = b"\n" + line  # never glue a record to a torn one
            try:
                while line:  # a disk that is almost full takes a part, and then complains
                    line = line[file.write(line) :]
                self._sync(file)
            except OSError:
                file.truncate(end)
                raise
        except OSError as error:
            raise self._explain(error) from error

    def _explain(self, error: OSError) -> LedgerError:
        return LedgerError(
            error.errno,
            f"{self.path}: a record could not be written ({error.strerror}); free space, "
            "then run the same command again: it goes on from the records before it",
        )

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b", buffering=0)
        return self._file

    def _sync(self, file: IO[bytes]) -> None:
        if time.monotonic() - self._synced >= _SYNC_S:
            os.fsync(file.fileno())
            self._synced = time.monotonic()

    @staticmethod
    def _ends_a_line(file: IO[bytes]) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"

    def close(self) -> None:
        """Let go of the file, all of it on the disk; the next append opens it again.

        Raises:
            LedgerError: the disk does not take what was appended last.
        """
        if self._file is not None:
            file, self._file = self._file, None
            with file:
                try:
                    os.fsync(file.fileno())
                except OSError as error:
                    raise self._explain(error) from error

    def read(self) -> list[dict[str, Any]]:
        """All whole records, in order."""
        if not self.path.is_file():
            return []
        records = []
        for line in self.path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
            except ValueError:  # torn, or not even text
                continue
            if isinstance(record, dict):
                records.append(record)
        return records

    def replay(self) -> Replay:
        """What the records add up to."""
        return Replay(self.read())

    def trials(self) -> list[dict[str, Any]]:
        """Every trial of the sweep as it stands now, by number; what was discarded is left out."""
        return [trial.row() for trial in self.replay().current()]
