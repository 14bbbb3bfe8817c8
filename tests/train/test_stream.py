"""Frames streamed from disk are those in memory, and are held only in part."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch

from serkd import config
from serkd.events import Observer
from serkd.features.cache import PartCache, StoredFrames
from serkd.features.store import part_path, read_block, stack_frames, write_part
from serkd.train.batches import plan_batches, plan_evaluation
from serkd.train.checkpoint import FolderCheckpoints
from serkd.train.data import FoldData
from serkd.train.launch import train
from serkd.train.loop import run_loop
from serkd.train.source import MemorySource
from serkd.train.stream import StreamedSource
from serkd.train.task import Task

DIM = 8


class Builder(Protocol):
    """The part of the `stored` fixture that is used here."""

    def build_task(
        self, name: str, changes: Mapping[str, Any] | None = None
    ) -> Callable[[], Task]: ...


@pytest.fixture
def many(tmp_path: Path) -> tuple[StoredFrames, list[np.ndarray]]:
    """Ten parts of up to nine utterances, a few of which are left out; and their frames."""
    rng = np.random.default_rng(0)
    kept: list[tuple[str, int, int, np.ndarray]] = []
    row = 0
    for part in range(10):
        ids = [f"{part}-{i}" for i in rng.permutation(rng.integers(5, 10))]
        arrays = [rng.normal(size=(rng.integers(3, 40), DIM)).astype(np.float16) for _ in ids]
        write_part(part_path(tmp_path, part), ids, {"layer_1": arrays})
        kept += [(u, part, row + i, a) for i, (u, a) in enumerate(zip(ids, arrays, strict=True))]
        row += len(ids)
    chosen = [kept[i] for i in rng.permutation(len(kept))[: len(kept) * 4 // 5]]
    ids, parts, rows, arrays = zip(*chosen, strict=True)
    lengths = np.array([len(array) for array in arrays])
    stored = StoredFrames(tmp_path, "layer_1", ids, np.array(parts), np.array(rows), lengths)
    return stored, list(arrays)


def test_a_cache_gives_every_utterance_and_never_holds_more_than_it_may(
    many: tuple[StoredFrames, list[np.ndarray]],
) -> None:
    stored, arrays = many
    assert stored.num_bytes == sum(array.nbytes for array in arrays)
    keep = frozenset(stored.utt_ids)
    paths = sorted(stored.folder.glob("*.parquet"))
    largest = max(read_block(path, "layer_1", keep).nbytes for path in paths)
    rng = np.random.default_rng(1)
    for max_bytes in (3.0 * largest, largest, 0.0):
        cache = PartCache(stored, max_bytes)
        for utterance in rng.integers(len(arrays), size=200):
            np.testing.assert_array_equal(cache[int(utterance)], arrays[utterance])
            assert cache.num_bytes <= max(max_bytes, largest)
    whole = PartCache(stored, 1e9)
    for utterance in rng.permutation(len(arrays)):
        np.testing.assert_array_equal(whole[int(utterance)], arrays[utterance])
    assert whole.num_reads == 10
    assert whole.num_bytes == stored.num_bytes


def test_a_plan_that_knows_of_parts_reads_each_about_once() -> None:
    """Within the window; without parts, almost every batch needs all of them."""
    rng = np.random.default_rng(0)
    lengths, parts = rng.integers(50, 500, 20_000), np.repeat(np.arange(400), 50)
    active = np.arange(20_000)

    def count_reads(plan: list[np.ndarray], room: int) -> int:
        held: list[int] = []
        num_reads = 0
        for batch in plan:
            for part in np.unique(parts[batch]):
                num_reads += part not in held
                others = [p for p in held if p != part]
                held = [*others[1 - room :], int(part)]
        return num_reads

    local = plan_batches(lengths, active, 32, (0, 0), parts=parts)
    assert sorted(np.concatenate(local)) == list(active)
    assert count_reads(local, 44) < 1.5 * 400
    assert count_reads(plan_batches(lengths, active, 32, (0, 0))[:50], 44) > 1_000
    assert count_reads(plan_evaluation(lengths, parts, active, None), 44) < 1.1 * 400

    def padding(plan: list[np.ndarray]) -> float:
        return 1 - lengths.sum() / sum(lengths[batch].max() * len(batch) for batch in plan)

    assert padding(local) < 0.15
    assert padding(plan_evaluation(lengths, parts, active, None)) < 0.1


def test_a_streamed_plan_gives_what_memory_gives_in_its_order(
    ray_cluster: None, many: tuple[StoredFrames, list[np.ndarray]]
) -> None:
    stored, arrays = many
    plan = plan_batches(stored.lengths, np.arange(len(arrays)), 4, (0, 0), parts=stored.parts)
    memory = MemorySource(stack_frames(stored.utt_ids, arrays), stored.parts)
    streamed = StreamedSource(stored, 2_000.0)
    for found, expected in zip(streamed.load(plan, 0), memory.load(plan, 0), strict=True):
        assert torch.equal(found.frames, expected.frames)
        assert torch.equal(found.mask, expected.mask)


def _streamed(data: FoldData, num_workers: int = 1) -> FoldData:
    return replace(data, train=config.Train(cache_gb=1e-4, num_workers=num_workers))


def _weights_and_losses(trained: Any) -> Any:  # noqa: ANN401
    history = [{k: v for k, v in r.items() if k != "seconds"} for r in trained.history]
    return history, trained.weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["extractor", "teacher_units", "teacher"])
def test_a_streamed_training_equals_one_in_memory_bit_for_bit(
    stored: Builder, ray_cluster: None, tmp_path: Path, name: str
) -> None:
    section = {"extractor": "extractor", "teacher_units": "teacher.stage1"}
    build = stored.build_task(name, {f"{section.get(name, 'teacher.stage2')}.fit.epochs": 1})
    assert isinstance(build, partial)
    data, *others = build.args
    tasks = [build(), build.func(_streamed(data), *others)]
    assert [type(task.source) for task in tasks] == [MemorySource, StreamedSource]
    found = [
        _weights_and_losses(run_loop(task, FolderCheckpoints(tmp_path / str(i)), Observer()))
        for i, task in enumerate(tasks)
    ]
    assert found[0][0] == found[1][0]
    for key, value in found[0][1].items():
        assert torch.equal(found[1][1][key], value), key


@pytest.mark.slow
def test_two_workers_stream_though_they_hold_all_cpus(
    stored: Builder, ray_cluster: None, tmp_path: Path
) -> None:
    build = stored.build_task("teacher", {"teacher.stage2.fit.epochs": 1})
    assert isinstance(build, partial)
    data, *others = build.args
    settings = config.Train(num_workers=2)
    histories = []
    for i, some in enumerate([data, _streamed(data, num_workers=2)]):
        task = partial(build.func, some, *others)
        histories.append(train("teacher", task, tmp_path / str(i), settings, Observer()))
    assert _weights_and_losses(histories[0])[0] == _weights_and_losses(histories[1])[0]
