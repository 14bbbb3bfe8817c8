"""What a stored prefix and batches of similar length save when teachers are trained.

Stored frames against the same trained layers with the frozen prefix run in every step: the same
weights, batches and dropout, so the losses must agree. Then batches of similar length against
random ones, on noise of a corpus's durations. Ways take turns at every step, so that a busy
machine is unfair to all; a ratio is the median over steps, which two ways take one after the other.

Without --backbone the model has the shape of HuBERT-base and random weights.
"""

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from serkd.bench.output import add_json, write_numbers
from serkd.bench.speech import (
    draw_durations,
    pick_utterances,
    read_durations,
    spread,
    write_speech,
)
from serkd.bench.steps import (
    Way,
    compare_batches,
    compare_prefix,
    count_frames,
    extract_prefix,
    padding_shares,
)
from serkd.corpora.manifest import Manifest, read_manifest
from serkd.errors import InputError
from serkd.features.backbone import Backbone, find_backbone
from serkd.models.trunk import Trunk
from serkd.recipe import read_numbers
from serkd.train.data import FoldData

_COMPARED = 20  # first steps whose losses must agree
_SHARES_OF = (8, 16, 32, 64)  # batch sizes


def main(arguments: Sequence[str]) -> None:
    """Parse, measure, print Markdown; `--json FILE` writes everything."""
    options = _parse(arguments)
    if min(options.utterances, options.steps, options.batch_size, options.epochs) < 1:
        raise InputError("--utterances, --steps, --batch-size and --epochs must be 1 or more")
    if options.threads:
        torch.set_num_threads(options.threads)
    with TemporaryDirectory(prefix="serkd-bench-") as folder:
        report = _measure(options, Path(folder))
    print(_markdown(report))
    write_numbers(options.json, report)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m serkd.bench teacher", description=__doc__)
    parser.add_argument("--backbone", help="tiny-hubert, folder or hub name")
    parser.add_argument("--layers", default="", help="frozen layers, e.g. 0,10; default 0 and L-2")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--manifest", type=Path, help="audio; default: synthetic speech")
    group.add_argument("--durations", help="CSV:COLUMN, seconds that the synthetic speech has")
    parser.add_argument("--utterances", type=int, default=64, help="evenly spread over durations")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=20, help="with a stored prefix and without")
    parser.add_argument("--epochs", type=int, default=2, help="in similar and in random batches")
    parser.add_argument("--threads", type=int, default=0, help="default what torch chooses")
    add_json(parser)
    return parser.parse_args(arguments)


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    backbone = _find_backbone(options.backbone, folder / "model")
    layers = _choose_layers(options.layers, backbone)
    manifest, ids, durations = _find_speech(options, folder / "audio")
    seconds = extract_prefix(backbone, manifest, ids, layers, folder)
    size, sampled = options.batch_size, spread(durations, len(ids))
    prefix = []
    for layer in layers:
        data = FoldData(manifest, ids, (), folder / f"layer_{layer}", f"layer_{layer}")
        trunk = Trunk(backbone, layer, precision=options.precision)
        ways = compare_prefix(data, trunk, size, options.steps)
        prefix.append({"frozen_layers": layer, **_compare_ways(ways["stored"], ways["recomputed"])})
    ways = compare_batches(data, trunk, sampled, size, options.epochs)
    totals = {way: sum(measured.seconds) for way, measured in ways.items()}
    sizes = sorted({*_SHARES_OF, size})
    threads = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return {
        "backbone": options.backbone or "HuBERT-base with random weights",
        "num_layers": backbone.num_layers,
        "num_utterances": len(ids),
        "mean_s": float(sampled.mean()),
        "batch_size": size,
        "precision": options.precision,
        "extract_s": seconds,
        "machine": {"cpus": os.cpu_count(), **threads},
        "prefix": prefix,
        "num_durations": len(durations),
        "padding": {str(n): padding_shares(count_frames(durations), n) for n in sizes},
        "batches": {
            "frozen_layers": layer,
            "padding": padding_shares(count_frames(sampled), size),
            "seconds": totals,
            "ratio": totals["random"] / totals["bucketed"],
        },
    }


def _choose_layers(text: str, backbone: Backbone) -> list[int]:
    if not text:
        return sorted({0, max(0, backbone.num_layers - 2)})
    layers = read_numbers("--layers", text, least=0)
    if max(layers) > backbone.num_layers:
        raise InputError(f"--layers must be 0 to {backbone.num_layers}, got {text}")
    return sorted(layers)


def _find_speech(
    options: argparse.Namespace, folder: Path
) -> tuple[Manifest, tuple[str, ...], np.ndarray]:
    """A corpus, the utterances that are used, and the seconds of all, (U,)."""
    if options.manifest is not None:
        manifest = read_manifest(options.manifest)
        durations = np.array([utterance.duration_s for utterance in manifest.utterances])
        return manifest, pick_utterances(manifest, options.utterances), durations
    durations = read_durations(options.durations) if options.durations else draw_durations()
    folder.mkdir()
    manifest = write_speech(folder, spread(durations, options.utterances))
    return manifest, tuple(manifest.by_id), durations


def _find_backbone(name: str | None, folder: Path) -> Backbone:
    if name is not None:
        return find_backbone(name)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
    return find_backbone(str(folder))


def _compare_ways(stored: Way, recomputed: Way) -> dict[str, Any]:
    pairs = list(zip(stored.losses, recomputed.losses, strict=True))[:_COMPARED]
    ratios = [b / a for a, b in zip(stored.seconds, recomputed.seconds, strict=True)]
    return {
        "stored_s": statistics.median(stored.seconds),
        "recomputed_s": statistics.median(recomputed.seconds),
        "ratio": statistics.median(ratios),
        "ratio_of_sums": sum(recomputed.seconds) / sum(stored.seconds),
        "largest_loss_gap": max(abs(a - b) for a, b in pairs),
        "losses": {"stored": stored.losses, "recomputed": recomputed.losses},
    }


def _markdown(report: Mapping[str, Any]) -> str:
    machine, batches = report["machine"], report["batches"]
    lines = [
        f"{report['backbone']}, {report['num_utterances']} utterances of {report['mean_s']:.1f} s "
        f"on average, batches of {report['batch_size']} in {report['precision']}, "
        f"{machine['threads']} threads, torch {machine['torch']}; "
        f"storing the prefix took {report['extract_s']:.0f} s, once",
        "",
        "| frozen layers | stored, s a step | recomputed, s a step | times as fast | all steps | "
        "losses differ by |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for one in report["prefix"]:
        lines.append(
            f"| {one['frozen_layers']} of {report['num_layers']} | {one['stored_s']:.3f} | "
            f"{one['recomputed_s']:.3f} | {one['ratio']:.2f} | {one['ratio_of_sums']:.2f} | "
            f"{one['largest_loss_gap']:.1e} |"
        )
    lines += [
        "",
        f"Padding, by the durations of {report['num_durations']} utterances:",
        "",
        "| batch size | similar lengths | random |",
        "|---:|---:|---:|",
    ]
    for size, share in report["padding"].items():
        lines.append(f"| {size} | {share['bucketed']:.1%} | {share['random']:.1%} |")
    share, seconds = batches["padding"], batches["seconds"]
    lines += [
        "",
        f"Trained on {report['num_utterances']} of these durations, {batches['frozen_layers']} "
        f"layers frozen: {seconds['bucketed']:.1f} s in batches of similar length "
        f"({share['bucketed']:.1%} padding), {seconds['random']:.1f} s in random ones "
        f"({share['random']:.1%}), {batches['ratio']:.2f} times as fast",
    ]
    return "\n".join(lines)
