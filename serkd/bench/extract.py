"""serkd's extraction of hidden states against plain loops over transformers.

Every run is a process of its own, and the ways take turns, so that a busy machine is unfair to all.
Timed is what a user waits for once Python has imported its libraries: loading the model, reading
and decoding every file, and writing the frames. Files are in the page cache for all.

Two threads that share a matrix product wait for each other, and spin: beside other work the loops
become many times slower. Compare with ``--threads 1`` too.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from serkd.bench.output import add_json, write_numbers

WAYS: Mapping[str, str] = {
    "serkd": "serkd, in this process",
    "loop": "transformers, one by one",
    "window": "transformers, one by one, padded to 30 s",
}


@dataclass(frozen=True)
class Job:
    """What is extracted; sent to the processes as JSON."""

    backbone: str
    manifest: str
    layers: tuple[int, ...]
    limit: int
    threads: int


@dataclass(frozen=True)
class Measured:
    """One way: seconds of each run, and of all runs the largest memory in bytes.

    `relative` is the largest RMS of a frame's difference from the loop's by the RMS of the
    utterance's frames: float16 alone makes 2e-4 of it.
    """

    way: str
    seconds: tuple[float, ...]
    peak_bytes: int
    relative: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print Markdown; `--json FILE` writes everything."""
    options = _parse(arguments)
    if options.worker is not None:
        print(json.dumps(_work(Job(**json.loads(options.job)), options.worker, Path(options.out))))
        return
    with TemporaryDirectory(prefix="serkd-bench-") as folder:
        job = _resolve(options, Path(folder))
        report = measure(job, options.runs, Path(folder), has_window=not options.no_window)
    print(_markdown(report))
    write_numbers(options.json, report)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serkd.bench extract", description=__doc__)
    parser.add_argument("--backbone", default="tiny-hubert", help="tiny-hubert, folder or hub name")
    parser.add_argument("--manifest", type=Path, help="default: a synthetic corpus")
    parser.add_argument("--layers", default="", help="e.g. 2,4; default the last one")
    parser.add_argument("--limit", type=int, default=0, help="so many utterances, evenly spread")
    parser.add_argument("--runs", type=int, default=3, help="of each way; the median counts")
    parser.add_argument("--threads", type=int, default=0, help="default what torch chooses")
    parser.add_argument("--no-window", action="store_true", help="without Whisper padded to 30 s")
    add_json(parser)
    for name in ("--worker", "--job", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _resolve(options: argparse.Namespace, folder: Path) -> Job:
    from serkd.corpora.build import build_manifest
    from serkd.corpora.manifest import write_manifest
    from serkd.corpora.synthetic import write_corpus
    from serkd.errors import InputError
    from serkd.features.backbone import find_backbone
    from serkd.recipe import read_numbers

    backbone = find_backbone(options.backbone)
    layers = [backbone.num_layers]
    if options.layers:
        layers = read_numbers("--layers", options.layers, least=0)
    if max(layers) > backbone.num_layers:
        raise InputError(f"--layers must be 0 to {backbone.num_layers}, got {options.layers}")
    manifest = options.manifest
    if manifest is None:
        manifest = folder / "manifest.parquet"
        write_manifest(build_manifest(write_corpus(folder / "corpus", num_speakers=12)), manifest)
    job_path = str(manifest.resolve())
    return Job(options.backbone, job_path, tuple(layers), options.limit, options.threads)


def measure(job: Job, runs: int, folder: Path, *, has_window: bool) -> dict[str, Any]:
    """Run every way `runs` times in turn, and compare what they wrote."""
    from serkd.features.backbone import find_backbone

    backbone = find_backbone(job.backbone)
    utterances = _utterances(job)
    for utterance in utterances:
        Path(utterance.path).read_bytes()  # into the page cache
    has_window = has_window and backbone.family == "whisper"
    ways = [way for way in WAYS if way != "window" or has_window]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for run in range(runs):
        for way in ways:
            found[way].append(_spawn(job, way, folder / f"{way}-{run}"))
    last = runs - 1
    measured = [
        Measured(
            way,
            tuple(one["seconds"] for one in found[way]),
            max(one["peak_bytes"] for one in found[way]),
            _largest_gap(job, way, folder / f"{way}-{last}", folder / f"loop-{last}"),
        )
        for way in ways
    ]
    return {
        **asdict(job),
        "num_utterances": len(utterances),
        "audio_s": sum(utterance.duration_s for utterance in utterances),
        "machine": {"cpus": os.cpu_count(), **found["serkd"][0]["versions"]},
        "ways": [{**asdict(one), "median_s": one.median} for one in measured],
    }


def _utterances(job: Job) -> list[Any]:
    from serkd.corpora.manifest import read_manifest

    every = read_manifest(Path(job.manifest), is_for_learning=False).utterances
    count = min(job.limit or len(every), len(every))
    return [every[i * len(every) // count] for i in range(count)]


def _spawn(job: Job, way: str, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "serkd.bench", "extract", "--worker", way]
    command += ["--job", json.dumps(asdict(job)), "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _work(job: Job, way: str, out: Path) -> dict[str, Any]:
    """In a process of its own."""
    import torch
    import transformers

    from serkd.bench.loops import run_loop
    from serkd.corpora.audio import Cut
    from serkd.events import Observer
    from serkd.features.backbone import find_backbone
    from serkd.features.encoders import PrefixEncoder
    from serkd.features.extract import Sink, extract_frames
    from serkd.features.parts import split_audio

    if job.threads:
        torch.set_num_threads(job.threads)
    backbone, utterances = find_backbone(job.backbone), _utterances(job)
    out.mkdir(parents=True)
    started = time.perf_counter()
    if way == "serkd":
        encoder = PrefixEncoder(backbone, max(job.layers), "cpu", tuple(job.layers))
        parts = split_audio(utterances, Cut(1 + max(u.duration_s for u in utterances)))
        sinks = {name: Sink(out / name, name) for name in (f"layer_{n}" for n in job.layers)}
        extract_frames(
            "bench", parts, encoder, sinks, num_actors=0, num_gpus=0.0, observer=Observer()
        )
    else:
        run_loop(backbone, utterances, job.layers, out, is_whole_window=way == "window")
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "seconds": seconds,
        "peak_bytes": peak if sys.platform == "darwin" else 1024 * peak,
        "versions": {**versions, "threads": torch.get_num_threads()},
    }


def _largest_gap(job: Job, way: str, out: Path, reference: Path) -> float:
    from serkd.bench.loops import read_loop
    from serkd.features.store import read_frames

    gaps = []
    for layer in job.layers:
        stored = read_frames(out / f"layer_{layer}", f"layer_{layer}") if way == "serkd" else None
        for number, utterance in enumerate(_utterances(job)):
            expected = read_loop(reference, number, layer).astype(np.float64)
            if stored is None:
                ours = read_loop(out, number, layer)[: len(expected)]
            else:
                ours = stored[stored.utt_ids.index(utterance.utt_id)]
                if ours.shape != expected.shape:
                    raise AssertionError(f"{utterance.utt_id}: {ours.shape}, {expected.shape}")
            worst = np.square(ours - expected).mean(axis=1).max()
            gaps.append(np.sqrt(worst / np.square(expected).mean()))
    return float(np.max(gaps))


def _markdown(report: Mapping[str, Any]) -> str:
    machine, hours = report["machine"], report["audio_s"] / 3600
    ours = report["ways"][0]["median_s"]
    lines = [
        f"{report['num_utterances']} utterances, {hours:.2f} h of speech, {report['backbone']}, "
        f"layers {report['layers']}, {machine['threads']} threads, torch {machine['torch']}",
        "",
        "| way | seconds (median) | of serkd's | times real time | peak GB | differs by |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in report["ways"]:
        seconds = one["median_s"]
        lines.append(
            f"| {WAYS[one['way']]} | {seconds:.1f} | {seconds / ours:.2f} | "
            f"{report['audio_s'] / seconds:.0f} | {one['peak_bytes'] / 1e9:.2f} | "
            f"{one['relative']:.1e} |"
        )
    return "\n".join(lines)
