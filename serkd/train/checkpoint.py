"""Where a training loop keeps its state between epochs: a folder, or Ray Train."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray.train
from safetensors.torch import load_file, save_file
from torch import Tensor

_TENSORS, _INFO = "state.safetensors", "state.json"


@dataclass(frozen=True)
class TrainState:
    """All that a loop needs to go on: `tensors` (model, best, optimizer) and `info` (history)."""

    tensors: dict[str, Tensor]
    info: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors below a prefix, without it."""
        return take_part(self.tensors, name)


def join_parts(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Several mappings as one with prefixes; inverse of `take_part`."""
    return {
        f"{part}.{name}": value.detach().cpu().contiguous().clone()
        for part, tensors in parts.items()
        for name, value in tensors.items()
    }


def take_part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    start = f"{name}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def write_state(state: TrainState, folder: Path) -> None:
    """Write both files and make sure that they are on the disk."""
    save_file(state.tensors, folder / _TENSORS)
    (folder / _INFO).write_text(json.dumps(state.info), encoding="utf-8")
    for name in (_TENSORS, _INFO):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def read_state(folder: Path) -> TrainState:
    """Inverse of `write_state`."""
    info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
    return TrainState(load_file(folder / _TENSORS), info)


class Checkpoints(Protocol):
    """Loads the last state, saves a new one with the epoch's record."""

    def load(self) -> TrainState | None: ...

    def save(self, state: TrainState | None, record: Mapping[str, Any]) -> None: ...


class FolderCheckpoints:
    """Keeps the last state below a folder; a killed process leaves the one before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _last(self) -> Path | None:
        return max(self.folder.glob("epoch-*"), default=None)

    def load(self) -> TrainState | None:
        last = self._last()
        return read_state(last) if last else None

    def save(self, state: TrainState | None, record: Mapping[str, Any]) -> None:
        assert state is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        before, target = self._last(), self.folder / f"epoch-{record['epoch']:05d}"
        temporary = self.folder / "writing"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write_state(state, temporary)
        temporary.rename(target)
        if before is not None:
            shutil.rmtree(before)


class RayCheckpoints:
    """Ray Train keeps the state; only rank 0 has one to save, but every rank must report."""

    def load(self) -> TrainState | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return read_state(Path(folder))

    def save(self, state: TrainState | None, record: Mapping[str, Any]) -> None:
        if state is None:
            ray.train.report(dict(record))
            return
        with tempfile.TemporaryDirectory() as folder:
            write_state(state, Path(folder))
            ray.train.report(dict(record), checkpoint=ray.train.Checkpoint.from_directory(folder))
