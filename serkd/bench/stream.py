"""Clustering frames that lie in Parquet and do not fit: two actors with a bounded cache.

Four processes take turns: a plain pyarrow read of the files, faiss.Kmeans on all frames in memory,
and serkd with a cache for all frames (in one process) and for a share of them (actors). Frames are
read twice: the first time Ray has to start its own processes. Steady is a pass over the frames
after the first; an idle actor has loaded its libraries and no frames.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from serkd.bench.kmeans import draw_mixture
from serkd.bench.output import add_json, write_numbers
from serkd.errors import InputError
from serkd.units.actors import Clustering

_COLUMN = "layer_1"
_UTTERANCE_FRAMES = 250
_PART_FRAMES = 12_000  # as many as extraction writes: four minutes of speech
WAYS: Mapping[str, str] = {
    "pyarrow": "pyarrow, reading all files",
    "faiss": "faiss.Kmeans in memory",
    "whole": "serkd, all frames fit",
    "share": "serkd, a share of them fits",
}


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print Markdown; `--json FILE` writes everything."""
    options = _parse(arguments)
    if min(options.runs, options.actors) < 1 or options.passes < 2 or not 0 < options.share < 1:
        raise InputError("--runs and --actors must be 1 or more, --passes 2, --share in (0, 1)")
    if not 2 <= options.num_clusters <= options.frames:
        raise InputError(f"--num-clusters must be 2 to --frames, got {options.num_clusters}")
    if options.worker is not None:
        print(json.dumps(_work(options)))
        return
    with TemporaryDirectory(prefix="serkd-bench-") as folder:
        num_bytes = write_parts(Path(folder), options.frames)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.runs):
            for way in WAYS:
                found[way].append(_spawn(way, Path(folder), arguments))
    ways = {way: {n: _median(n, runs) for n in runs[0]} for way, runs in found.items()}
    report = {"num_bytes": num_bytes, "cpus": os.cpu_count(), **_settings(options), "ways": ways}
    print(_markdown(report))
    write_numbers(options.json, {**report, "runs": found})


def _median(name: str, runs: Sequence[Mapping[str, float]]) -> float:
    return statistics.median(run[name] for run in runs)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serkd.bench stream", description=__doc__)
    parser.add_argument("--frames", type=int, default=300_000, help="of the synthetic mixture")
    parser.add_argument("--num-clusters", type=int, default=256)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.25, help="of the frames that is cached")
    parser.add_argument("--passes", type=int, default=20, help="Lloyd iterations")
    parser.add_argument("--runs", type=int, default=3, help="of each way; the median counts")
    add_json(parser)
    for name in ("--worker", "--data"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("frames", "num_clusters", "actors", "share", "passes")
    return {name: getattr(options, name) for name in names}


def write_parts(folder: Path, num_frames: int) -> int:
    """The mixture as extraction would store it; returns the bytes of all frames."""
    from serkd.features.store import part_path, write_part

    frames = draw_mixture(num_frames)
    for number, start in enumerate(range(0, num_frames, _PART_FRAMES)):
        block = frames[start : start + _PART_FRAMES]
        rows = [block[i : i + _UTTERANCE_FRAMES] for i in range(0, len(block), _UTTERANCE_FRAMES)]
        names = [f"u{number:04d}-{i:03d}" for i in range(len(rows))]
        write_part(part_path(folder, number), names, {_COLUMN: rows})
    return frames.nbytes


def _spawn(way: str, folder: Path, arguments: Sequence[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "serkd.bench", "stream", *arguments]
    command += ["--worker", way, "--data", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _work(options: argparse.Namespace) -> dict[str, float]:
    """In a process of its own."""
    folder = Path(options.data)
    if options.worker == "pyarrow":
        return _read(folder)
    if options.worker == "faiss":
        return _fit_faiss(folder, options)
    return _fit_serkd(folder, options, 1.0 if options.worker == "whole" else options.share)


def _read(folder: Path) -> dict[str, float]:
    import pyarrow.parquet as pq

    from serkd.features.store import list_parts

    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        kept = [pq.read_table(path) for path in list_parts(folder)]
        seconds.append(time.perf_counter() - started)
        del kept
    return {"first_s": seconds[0], "load_s": seconds[1]}


def _fit_faiss(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A pass is the difference that passes make: the start is not counted.

    It ends early when nothing moves, and `obj` tells of every pass that was made.
    """
    import faiss

    from serkd.features.store import read_frames

    frames = read_frames(folder, _COLUMN).values.astype(np.float32)
    seconds, made = [], []
    for passes in (1, options.passes):
        model = faiss.Kmeans(
            frames.shape[1],
            options.num_clusters,
            niter=passes,
            seed=1,
            max_points_per_centroid=len(frames),
        )
        started = time.perf_counter()
        model.train(frames)
        seconds.append(time.perf_counter() - started)
        assert model.obj is not None
        made.append(len(model.obj))
    return {"steady_s": (seconds[1] - seconds[0]) / max(1, made[1] - made[0]), "fit_s": seconds[1]}


class _Timed(Clustering):
    """Notes how long every pass takes."""

    def __init__(self, num_actors: int) -> None:
        super().__init__(num_actors=num_actors)
        self.passes: list[float] = []

    def call(self, method: str, *arguments: object) -> list[Any]:
        started = time.perf_counter()
        found = super().call(method, *arguments)
        if method == "add" and len(arguments) == 2:  # and not of a sample
            self.passes.append(time.perf_counter() - started)
        return found


def _fit_serkd(folder: Path, options: argparse.Namespace, share: float) -> dict[str, float]:
    import ray

    from serkd import runtime
    from serkd.features.store import list_parts, read_part

    names = [utt_id for path in list_parts(folder) for utt_id, _ in read_part(path, _COLUMN)]
    num_bytes = sum(path.stat().st_size for path in list_parts(folder))
    runtime.start_ray()
    clustering = _Timed(options.actors)
    num_actors = options.actors if share < 1.0 else 0
    clustering.open(num_actors)
    actors = [shard.actor for shard in clustering.shards if shard.actor]

    def ask(name: str) -> list[int]:
        return ray.get([actor.__ray_call__.remote(lambda _: _memory(name)) for actor in actors])

    idle, before, seconds = ask("VmRSS"), _memory("RssAnon"), []
    for _ in range(2):
        started = time.perf_counter()
        clustering.load(folder, _COLUMN, names, cache_bytes=share * num_bytes)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    clustering.fit([options.num_clusters], max_iterations=options.passes, tolerance=0.0, seed=0)
    found = {
        "first_s": seconds[0],
        "load_s": seconds[1],
        "steady_s": statistics.median(clustering.passes[1:]),
        "fit_s": time.perf_counter() - started,
    }
    if actors:
        found["limit_bytes"] = share * num_bytes / len(actors)
        found["idle_bytes"] = max(idle)
        found["peak_bytes"] = max(ask("VmHWM"))
        found["store_bytes"] = max(ask("RssShmem"))
        found["driver_bytes"] = _memory("RssAnon") - before
    clustering.close()
    return found


def _memory(name: str) -> int:
    """Bytes of this process, on Linux only.

    VmRSS is what it has now, VmHWM the most that it had, RssShmem its part in Ray's object store,
    RssAnon what is its own.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"/proc/self/status has no {name}")


def _markdown(report: Mapping[str, Any]) -> str:
    ways = report["ways"]
    lines = [
        f"{report['frames']:,} frames, {report['num_bytes'] / 1e6:.0f} MB of float16, "
        f"K = {report['num_clusters']}, {report['actors']} actors, {report['cpus']} CPUs",
        "",
        "| way | first read (s) | read again (s) | of pyarrow's | steady pass (s) | of FAISS's | "
        "whole fit (s) | actor: cache (MB) | idle (MB) | peak (MB) | of it Ray's store (MB) | "
        "driver grew by (MB) |",
        f"|---|{11 * '---:|'}",
    ]
    for way, one in ways.items():
        read, steady = one.get("load_s"), one.get("steady_s")
        cells = [
            _cell(one.get("first_s"), 1, ".2f"),
            _cell(read, 1, ".2f"),
            _cell(read, ways["pyarrow"]["load_s"], ".1f"),
            _cell(steady, 1, ".3f"),
            _cell(steady, ways["faiss"]["steady_s"], ".2f"),
            _cell(one.get("fit_s"), 1, ".1f"),
            *(
                _cell(one.get(f"{n}_bytes"), 1e6, ".0f")
                for n in ("limit", "idle", "peak", "store", "driver")
            ),
        ]
        lines.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value / unit, form)
