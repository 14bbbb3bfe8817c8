"""The file that a benchmark writes all of its numbers to."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serkd.files import write_json
from serkd.writable import check_output


class _File(argparse.Action):
    """Refused at once where it cannot be written: a measurement takes minutes."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(values, Path)
        check_output("--json", values)
        namespace.json = values


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that every benchmark has."""
    parser.add_argument("--json", type=Path, action=_File, help="write all numbers here")


def write_numbers(path: Path | None, numbers: object) -> None:
    """All of them, where they are asked for."""
    if path is not None:
        write_json(path, numbers)
