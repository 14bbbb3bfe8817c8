"""What happened in a sweep: an append-only file of JSON lines."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Ledger:
    """Appends records and reads them back; a torn last line, left by a crash, is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record and make sure that it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record).encode() + b"\n"
        with self.path.open("a+b") as file:
            if file.tell() and not self._ends_a_line():
                line = b"\n" + line  # never glue a record to a torn one
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def read(self) -> list[dict[str, Any]]:
        """All whole records, in order."""
        if not self.path.is_file():
            return []
        records = []
        for line in self.path.read_bytes().split(b"\n"):
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return records

    def trials(self) -> list[dict[str, Any]]:
        """The last state of every trial, by number."""
        found: dict[int, dict[str, Any]] = {}
        for record in self.read():
            found[record["trial"]] = {**found.get(record["trial"], {}), **record}
        return [found[number] for number in sorted(found)]
