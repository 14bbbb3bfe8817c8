"""The sealed test split: labels are read here only, and every look is written down first.

Folds know no label of their test split (`Fold`), so this is the one way to them. The log is
append-only; each record carries the hash of those before it, and each result that of its record,
so that a look that was deleted is noticed at the next.
"""

import fcntl
import getpass
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serkd.config import Corpus, Protocol
from serkd.corpora.folds import Fold, hash_folds
from serkd.corpora.protocols import build_folds, read_corpus
from serkd.errors import InputError
from serkd.storage.sync import pull, push


@dataclass(frozen=True)
class Look:
    """A look at test labels.

    `earlier` are those for the same subject, `num_others` how many there were for other subjects
    at a test part of these folds, `digest` is of its own line in the log.
    """

    subject: str
    earlier: list[dict[str, Any]]
    num_others: int
    digest: str

    @property
    def number(self) -> int:
        return len(self.earlier) + 1

    @property
    def text(self) -> str:
        """What to tell the user."""
        lines = [f"look {self.number} at the test split for {self.subject}"]
        if self.earlier:
            last = self.earlier[-1]
            lines.append(
                f"it was opened before, last on {last['time']} by {last['user']} for "
                f"{last['chosen']}: what is chosen after a look is not blind any more"
            )
        if self.num_others:
            lines.append(
                f"test utterances of these folds were looked at {self.num_others} time(s) for "
                "other runs or sweeps of this storage"
            )
        return "\n".join(lines)


def open_seal(
    log: Path,
    subject: str,
    chosen: str,
    corpus: Corpus,
    protocol: Protocol,
    folds: Sequence[Fold],
    keys: Mapping[str, str],
    result: Path,
) -> tuple[dict[str, str], Look]:
    """The emotions of the folds' test utterances, once the look is on disk.

    `subject` is the run or sweep that looks are counted for, `chosen` what of it is evaluated,
    `keys` the content keys of the models. `result` is the file that what is seen goes to, with the
    look's digest: where it is there, the log must have the look that it came from.

    Raises:
        InputError: the corpus has changed since the folds were built, or the log was edited.
    """
    pull(log)  # of everybody who shares the object store
    if result.is_file():
        _require_look(log, result)
    manifest = read_corpus(corpus, protocol)
    now = {fold.name: fold.split_hash for fold in build_folds(protocol, manifest)}
    for fold in folds:
        if now.get(fold.name) != fold.split_hash:
            raise InputError(f"fold {fold.name}: the corpus must be the one that was trained on")
    record = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": _user(),
        "host": platform.node(),
        "subject": subject,
        "chosen": chosen,
        "folds": [fold.name for fold in folds],
        "split_hash": hash_folds(folds),
        "test_hashes": [fold.test_hash for fold in folds],
        "models": dict(keys),
    }
    before, digest = _append(log, record)
    push(log)  # where storage is an object store, the look is there before a label is seen
    same = [look for look in before if look["subject"] == subject]
    others = sum(look["subject"] != subject and _overlap(look, record) for look in before)
    labels = {i: manifest.by_id[i].emotion for fold in folds for i in fold.test}
    return labels, Look(subject, same, others, digest)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _overlap(look: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return not set(look.get("test_hashes", ())).isdisjoint(other["test_hashes"])


def _append(log: Path, record: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Add a record under a lock; returns those that were there, and the digest of its line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = read_log(log)
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):  # torn by a crash: that look saw nothing
            file.write(b"\n")
            content += b"\n"
        line = json.dumps({**record, "after": _digest(content)}).encode() + b"\n"
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return before, _digest(line)


def _require_look(log: Path, result: Path) -> None:
    """Refuse a log without the look that `result` came from: of the last one no record follows."""
    digest = json.loads(result.read_text(encoding="utf-8"))["look_digest"]
    lines = log.read_bytes().splitlines(keepends=True) if log.is_file() else []
    if digest not in map(_digest, lines):
        raise InputError(
            f"{log}: must have the look that {result} came from, but it has not: the log was "
            "edited; restore it"
        )


def read_log(log: Path) -> list[dict[str, Any]]:
    """All looks, oldest first; a record that a crash tore is passed over.

    Raises:
        InputError: something before a record was changed or removed.
    """
    content = log.read_bytes() if log.is_file() else b""
    looks = []
    position = 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            look = json.loads(line)
        except ValueError:
            pass
        else:
            if not isinstance(look, dict) or look.get("after") != _digest(content[:position]):
                raise InputError(
                    f"{log}: every look must follow from those before it, line {number} does not: "
                    "the log was edited; restore it"
                )
            looks.append(look)
        position += len(line)
    return looks


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
