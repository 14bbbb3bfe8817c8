"""An object store, by pyarrow: whole objects below a prefix of a bucket."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyarrow import fs

from serkd.errors import InputError

_URI = re.compile(r"(?P<scheme>s3|gs)://(?P<bucket>[^/?#]+)(?P<prefix>(/[^?#]*)?)")
_RETRY = timedelta(seconds=60)  # Google's client goes on for a quarter of an hour by itself


@dataclass(frozen=True)
class Entry:
    """An object: its path below the store's prefix, and what tells one version from another."""

    path: str
    size: int
    mtime_ns: int


class ObjectStore:
    """Objects by their path below a prefix; an object appears whole or not at all."""

    def __init__(self, filesystem: Any, base: str) -> None:  # noqa: ANN401  pyarrow has no types
        self.filesystem, self.base = filesystem, base

    def _at(self, path: str) -> str:
        return f"{self.base}/{path}" if path else self.base

    def read(self, path: str) -> bytes | None:
        """An object's content, or None if there is none."""
        try:
            with self.filesystem.open_input_stream(self._at(path)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> Entry:
        """Put an object there, in place of another."""
        with self.filesystem.open_output_stream(self._at(path)) as stream:
            stream.write(content)
        (entry,) = self.stat(path)
        return entry

    def stat(self, path: str) -> list[Entry]:
        """The object at a path, if there is one."""
        (info,) = self.filesystem.get_file_info([self._at(path)])
        return [Entry(path, info.size, info.mtime_ns)] if info.is_file else []

    def upload(self, local: Path, path: str) -> None:
        """Put a file's content there, a piece at a time."""
        fs.copy_files(
            str(local), self._at(path), fs.LocalFileSystem(), self.filesystem, use_threads=False
        )

    def download(self, path: str, local: Path) -> None:
        """Write an object's content to a file, a piece at a time."""
        local.parent.mkdir(parents=True, exist_ok=True)
        fs.copy_files(
            self._at(path), str(local), self.filesystem, fs.LocalFileSystem(), use_threads=False
        )

    def list(self, folder: str) -> list[Entry]:
        """All objects below a path."""
        selector = fs.FileSelector(self._at(folder), recursive=True, allow_not_found=True)
        return [
            Entry(info.path.removeprefix(f"{self.base}/"), info.size, info.mtime_ns)
            for info in self.filesystem.get_file_info(selector)
            if info.is_file
        ]

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; that one is gone already is fine."""
        for path in paths:
            try:
                self.filesystem.delete_file(self._at(path))
            except FileNotFoundError:
                continue


def is_uri(text: str) -> bool:
    """Whether a storage is named by a URI; Windows has drives of one letter."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) is not None


def check_uri(option: str, text: str) -> str:
    """The URI, without a slash at its end; a `Path` of it has lost one of its beginning.

    Raises:
        InputError: it is not one of an object store that can be used.
    """
    uri = re.sub(r"^(\w+):/+", r"\1://", text.rstrip("/"))
    if _URI.fullmatch(uri) is None:
        raise InputError(
            f"{option} must be a folder, s3://bucket/path or gs://bucket/path, got {uri}"
        )
    return uri


@functools.cache
def connect(uri: str) -> ObjectStore:
    """The store of a URI; credentials, region and endpoint are those of the environment.

    Raises:
        InputError: the bucket is not there, or not for us.
    """
    found = _URI.fullmatch(uri)
    assert found is not None, uri
    bucket, base = found["bucket"], f"{found['bucket']}{found['prefix']}"
    try:
        if found["scheme"] == "s3":  # reads AWS_ENDPOINT_URL, which S3FileSystem() does not
            filesystem, _ = fs.FileSystem.from_uri(uri)
        else:
            filesystem = fs.GcsFileSystem(retry_time_limit=_RETRY)
        (info,) = filesystem.get_file_info([bucket])
    except OSError as error:
        raise InputError(f"{uri}: must be a bucket that can be read, but: {error}") from error
    if info.type == fs.FileType.NotFound:
        raise InputError(f"{uri}: must be in a bucket that exists, {bucket} does not")
    return ObjectStore(filesystem, base)
