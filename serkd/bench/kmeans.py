"""serkd's k-means against its peers: seconds, inertia and memory, from one run.

Every fit is a process of its own, and the ways take turns, so that a busy machine is unfair to all.
Timed is the fit alone, from frames in memory as the way wants them; inertia is computed by the same
float64 code for all, on the same float16 frames. Peers come with the extra `bench`; one that is
not installed is left out and said to be.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from serkd.bench.output import add_json, write_numbers
from serkd.errors import InputError
from serkd.recipe import read_numbers

Fit = Callable[[np.ndarray, Sequence[int]], dict[int, np.ndarray]]  # (N, D) float16 to centroids
_PART_FRAMES = 50_000
_ITERATIONS = 20


def _serkd(frames: np.ndarray, scales: Sequence[int]) -> dict[int, np.ndarray]:
    """As a trial does it: one shard in this process, scales side by side."""
    from serkd.units.actors import Clustering

    clustering = Clustering()
    starts = range(0, len(frames), _PART_FRAMES)
    clustering.hold([frames[start : start + _PART_FRAMES] for start in starts])
    fitted = clustering.fit(scales, max_iterations=_ITERATIONS, tolerance=1e-4, seed=0)
    return {k: one.centroids for k, one in fitted.items()}


def _faiss(frames: np.ndarray, scales: Sequence[int], **options: int) -> dict[int, np.ndarray]:
    import faiss

    wide = frames.astype(np.float32)
    found: dict[int, np.ndarray] = {}
    for k in scales:
        model = faiss.Kmeans(frames.shape[1], k, seed=1, **options)
        model.train(wide)
        assert model.centroids is not None
        found[k] = model.centroids
    return found


def _faiss_all(frames: np.ndarray, scales: Sequence[int]) -> dict[int, np.ndarray]:
    every = len(frames)
    return _faiss(frames, scales, niter=_ITERATIONS, max_points_per_centroid=every)


def _scikit(frames: np.ndarray, scales: Sequence[int]) -> dict[int, np.ndarray]:
    from sklearn.cluster import KMeans

    wide = frames.astype(np.float32)
    return {
        k: KMeans(k, n_init=1, max_iter=_ITERATIONS, random_state=1).fit(wide).cluster_centers_
        for k in scales
    }


def _fairseq(frames: np.ndarray, scales: Sequence[int]) -> dict[int, np.ndarray]:
    """The settings of fairseq's `learn_kmeans.py`."""
    from sklearn.cluster import MiniBatchKMeans

    wide = frames.astype(np.float32)
    settings = {"batch_size": 10_000, "n_init": 20, "max_no_improvement": 100, "max_iter": 100}
    return {
        k: MiniBatchKMeans(k, tol=0.0, reassignment_ratio=0.0, random_state=1, **settings)
        .fit(wide)
        .cluster_centers_
        for k in scales
    }


def _fastkmeans(frames: np.ndarray, scales: Sequence[int]) -> dict[int, np.ndarray]:
    from fastkmeans import FastKMeans

    wide, found = frames.astype(np.float32), {}
    for k in scales:
        model = FastKMeans(
            frames.shape[1], k, niter=_ITERATIONS, gpu=False, max_points_per_centroid=None, seed=1
        )
        model.train(wide)
        found[k] = model.centroids
    return found


WAYS: Mapping[str, tuple[str, Fit, str]] = {  # a name, how, and the package that it needs
    "serkd": ("serkd", _serkd, "faiss"),
    "faiss": (f"faiss.Kmeans, all points, {_ITERATIONS} iterations", _faiss_all, "faiss"),
    "faiss-default": ("faiss.Kmeans as it comes", _faiss, "faiss"),
    "scikit": ("scikit-learn KMeans", _scikit, "sklearn"),
    "fairseq": ("fairseq's MiniBatchKMeans", _fairseq, "sklearn"),
    "fastkmeans": ("fastkmeans", _fastkmeans, "fastkmeans"),
}


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print Markdown; `--json FILE` writes everything."""
    options = _parse(arguments)
    scales = read_numbers("--num-clusters", options.num_clusters, least=2)
    if options.runs < 1 or options.frames < max(scales):
        raise InputError("--runs must be at least 1, and --frames as many as clusters")
    if options.worker is not None:
        print(json.dumps(_work(options.worker, Path(options.data), scales)))
        return
    ways = options.ways.split(",") if options.ways else list(WAYS)
    if unknown := [way for way in ways if way not in WAYS]:
        raise InputError(f"--ways must be of {', '.join(WAYS)}, got {', '.join(unknown)}")
    with TemporaryDirectory(prefix="serkd-bench-") as folder:
        data = Path(folder) / "frames.npy"
        np.save(data, _read_frames(options) if options.hidden else draw_mixture(options.frames))
        report = measure(data, ways, scales, options.runs)
    print(_markdown(report))
    write_numbers(options.json, report)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serkd.bench kmeans", description=__doc__)
    parser.add_argument("--num-clusters", default="256", help="e.g. 64,256,1024: together")
    parser.add_argument("--frames", type=int, default=300_000, help="of the synthetic mixture")
    parser.add_argument("--hidden", type=Path, help="a folder of stored frames instead")
    parser.add_argument("--column", default="", help="of --hidden, e.g. layer_6")
    parser.add_argument("--ways", default="", help=f"default all: {','.join(WAYS)}")
    parser.add_argument("--runs", type=int, default=3, help="of each way; the median counts")
    add_json(parser)
    for name in ("--worker", "--data"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def draw_mixture(num_frames: int, dim: int = 768, components: int = 400) -> np.ndarray:
    """Frames (N, D) float16 of a mixture of unit Gaussians' centres with noise of 0.8."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((components, dim), dtype=np.float32)
    frames = np.empty((num_frames, dim), np.float16)
    for start in range(0, num_frames, 10_000):
        part = frames[start : start + 10_000]
        noise = rng.standard_normal(part.shape, dtype=np.float32)
        part[:] = centres[rng.integers(components, size=len(part))] + 0.8 * noise
    return frames


def _read_frames(options: argparse.Namespace) -> np.ndarray:
    from serkd.features.store import list_parts, read_frames, read_layout

    parts = list_parts(options.hidden)
    if not parts:
        raise InputError(f"--hidden must be a folder with parts of frames, {options.hidden} is not")
    columns = sorted(read_layout(parts[0]))
    column = options.column or columns[0]
    if column not in columns:
        raise InputError(f"--column must be of {', '.join(columns)}, got {column!r}")
    return read_frames(options.hidden, column).values


def measure(data: Path, ways: Sequence[str], scales: Sequence[int], runs: int) -> dict[str, Any]:
    """Run every way `runs` times in turn."""
    missing = [way for way in ways if importlib.util.find_spec(WAYS[way][2]) is None]
    present = [way for way in ways if way not in missing]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in present}
    for _ in range(runs):
        for way in present:
            command = [sys.executable, "-m", "serkd.bench", "kmeans", "--worker", way]
            command += ["--data", str(data), "--num-clusters", ",".join(map(str, scales))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    shape = np.load(data, mmap_mode="r").shape
    return {
        "num_frames": shape[0],
        "dim": shape[1],
        "num_clusters": list(scales),
        "cpus": os.cpu_count(),
        "not_installed": missing,
        "ways": {
            way: {
                "seconds": [one["seconds"] for one in many],
                "median_s": statistics.median(one["seconds"] for one in many),
                "peak_bytes": max(one["peak_bytes"] for one in many),
                "inertia": many[0]["inertia"],
            }
            for way, many in found.items()
        },
    }


def _work(way: str, data: Path, scales: Sequence[int]) -> dict[str, Any]:
    """In a process of its own."""
    frames = np.load(data)
    WAYS[way][1](frames[:2_000], [2])  # libraries are loaded and warm
    started = time.perf_counter()
    centroids = WAYS[way][1](frames, scales)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "peak_bytes": peak if sys.platform == "darwin" else 1024 * peak,
        "inertia": {str(k): _inertia(frames, found) for k, found in centroids.items()},
    }


def _inertia(frames: np.ndarray, centroids: np.ndarray) -> float:
    """Mean squared distance of a frame (N, D) from its nearest centroid."""
    from serkd.units.sums import add_blocks, square_sum

    wide = np.ascontiguousarray(centroids, np.float32)
    total = add_blocks([(0, frames)], {len(wide): wide}, {})[len(wide)]
    exact = wide.astype(np.float64)
    inside = np.einsum("kd,kd->", exact, total.counts[:, None] * exact - 2.0 * total.sums)
    return float((square_sum(frames) + inside) / len(frames))


def _markdown(report: Mapping[str, Any]) -> str:
    scales = report["num_clusters"]
    reference = report["ways"].get("faiss") or next(iter(report["ways"].values()))
    lines = [
        f"{report['num_frames']:,} frames x {report['dim']}, K = {', '.join(map(str, scales))}, "
        f"{report['cpus']} CPUs, median of {len(reference['seconds'])}",
        "",
        f"| way | seconds | of FAISS's | peak GB | {' | '.join(f'inertia {k}' for k in scales)} |",
        f"|---|---:|---:|---:|{'---:|' * len(scales)}",
    ]
    for way, one in report["ways"].items():
        inertia = " | ".join(f"{one['inertia'][str(k)]:.2f}" for k in scales)
        ratio = one["median_s"] / reference["median_s"]
        lines.append(
            f"| {WAYS[way][0]} | {one['median_s']:.1f} | {ratio:.2f} | "
            f"{one['peak_bytes'] / 1e9:.2f} | {inertia} |"
        )
    lines += [f"\nnot installed: {way}" for way in report["not_installed"]]
    return "\n".join(lines)
