"""Places that results are to go to, refused before any work is done for them."""

import os
from pathlib import Path

from serkd.errors import InputError


def check_output(option: str, path: Path, *inputs: Path) -> None:
    """Refuse a file that cannot be written, or that is read, before any work is done for it."""
    check_folder(option, path.absolute().parent, path)
    if path.is_dir() or not path.name:
        raise InputError(f"{option} must be a file, {path} is a folder")
    for other in inputs:
        if path.exists() and other.exists() and path.samefile(other):
            raise InputError(f"{option} must not be the file that is read, got {path}")


def check_folder(option: str, folder: Path, path: Path | None = None) -> None:
    """Refuse a folder that cannot be made or written into; `path` is what will be in it."""
    wanted = path or folder
    try:
        wanted.exists()
        existing = next(above for above in (folder, *folder.absolute().parents) if above.exists())
    except OSError as error:  # a name that is too long
        raise InputError(f"{option} must be where files can be written: {error}") from error
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{option} must be where files can be written, not {wanted}")
