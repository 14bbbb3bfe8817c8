"""Units as the files that fairseq's HuBERT trains on."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkd.config import Experiment
from serkd.corpora.audio import SAMPLE_RATE_HZ, Cut
from serkd.corpora.folds import Fold, select_folds
from serkd.corpora.manifest import Utterance
from serkd.corpora.protocols import read_folds
from serkd.errors import InputError
from serkd.features.store import Frames, read_frames
from serkd.files import write_json
from serkd.recipe import build_experiment
from serkd.report.frames import ABOUT, require_empty, scale_folder
from serkd.stages.catalogue import STAGES, list_scales
from serkd.stages.context import Ref
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore

_SUBSETS = {"train": "train", "dev": "valid", "test": "test"}  # fairseq says valid


@dataclass(frozen=True)
class UnitsFolder:
    """Stored units of one scale, and the fold whose training utterances made them."""

    name: str
    folder: Path
    fold: Fold
    cut: Cut


def export_fairseq(source: Path, out: Path) -> list[Path]:
    """Write train, valid (our dev) and test of each fold and scale below `out`.

    `<subset>.tsv` has the audio's root and a line ``path<TAB>num_samples`` for each utterance,
    `<subset>.km` its units, `dict.km.txt` every unit with its count in train. Returns the folders.

    Raises:
        InputError: `source` has no units, they are not stored any more, or they do not begin where
            the audio does.
    """
    require_empty(out)
    return [_export(found, out / found.name) for found in find_units(source)]


def find_units(folder: Path) -> list[UnitsFolder]:
    """The units of a run, of what `serkd cluster` wrote, or of one stored stage."""
    folder = folder.resolve()
    about = _read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    if about.get("what") == "units":
        experiment = build_experiment(about["experiment"], {}, origin=str(folder / ABOUT))
        graphs = _graphs(experiment, about["fold_choice"])
        return [_here(g, ref, folder / scale_folder(g.fold, ref)) for g, ref in graphs]
    if (folder / "experiment.json").is_file() and (folder / "results.json").is_file():
        store = StageStore(folder.parent.parent)
        return [_stored(graph, ref, store, folder) for graph, ref in _graphs(*_read_run(folder))]
    if (folder / "stage.json").is_file() and folder.parent.name == "units":
        return [_of_stage(folder)]
    raise InputError(
        f"{folder}: must be a folder of `serkd run`, of `serkd cluster`, or of a stage `units`"
    )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_run(folder: Path) -> tuple[Experiment, str]:
    data = _read_json(folder / "experiment.json")
    experiment = build_experiment(data, {}, origin=str(folder / "experiment.json"))
    return experiment, _read_json(folder / "results.json")["fold_choice"]


def _graphs(experiment: Experiment, fold_choice: str) -> list[tuple[Graph, Ref]]:
    folds = select_folds(read_folds(experiment.corpus, experiment.protocol), fold_choice)
    graphs = [Graph(STAGES, experiment, fold) for fold in folds]
    return [(g, Ref("units", scale)) for g in graphs for scale in list_scales(experiment)]


def _here(graph: Graph, ref: Ref, folder: Path) -> UnitsFolder:
    corpus = graph.experiment.corpus
    cut = Cut(corpus.max_duration_s, corpus.trim_silence_db)
    return UnitsFolder(scale_folder(graph.fold, ref), folder, graph.fold, cut)


def _stored(graph: Graph, ref: Ref, store: StageStore, run: Path) -> UnitsFolder:
    artifact = store.find(ref.stage, graph.key(ref))
    if artifact is None:
        raise InputError(
            f"{run}: {ref} of fold {graph.fold.name} must be stored, but the corpus, the backbone "
            "or serkd itself has changed since, or it was removed: run it again"
        )
    return _here(graph, ref, artifact.folder)


def _of_stage(folder: Path) -> UnitsFolder:
    """A stage does not know its corpus; a run of the same storage does."""
    storage = folder.parents[2]
    for path in sorted((storage / "runs").glob("*/results.json")):
        for graph, ref in _graphs(*_read_run(path.parent)):
            if graph.key(ref) == folder.name:
                return _here(graph, ref, folder)
    raise InputError(
        f"{folder}: must be of a run below {storage / 'runs'}, which knows the corpus, but none "
        "used it; give the folder that `serkd cluster` wrote"
    )


def _export(source: UnitsFolder, out: Path) -> Path:
    fold, said = source.fold, _read_json(source.folder / "units.json")
    if source.cut.trim_silence_db is not None:
        raise InputError(
            f"{source.folder}: corpus.trim_silence_db must be null for fairseq, which reads audio "
            f"from its beginning, got {source.cut.trim_silence_db:g}: its units begin with speech"
        )
    if said["train_hash"] != fold.train_hash:
        raise InputError(
            f"{source.folder}: the corpus must be as it was, but fold {fold.name} now trains on "
            f"other utterances ({fold.train_hash[:8]}) than the units' k-means "
            f"({said['train_hash'][:8]}); run it again"
        )
    units, by_id, num_units = (
        read_frames(source.folder, "units"),
        fold.manifest.by_id,
        said["num_units"],
    )
    root = Path(os.path.commonpath([Path(u.path).parent for u in by_id.values()]))
    out.mkdir(parents=True)
    for part, subset in _SUBSETS.items():
        chosen = [by_id[utt_id] for utt_id in sorted(source.fold.part(part))]
        mine = units.select([utterance.utt_id for utterance in chosen])
        _write_lines(out / f"{subset}.tsv", [str(root), *(_tsv_line(u, root) for u in chosen)])
        _write_lines(out / f"{subset}.km", [" ".join(map(str, row)) for row in _rows(mine)])
    train = units.select(sorted(source.fold.train)).values
    counts = np.bincount(train, minlength=num_units)
    _write_lines(out / "dict.km.txt", [f"{unit} {count}" for unit, count in enumerate(counts)])
    write_json(out / "export.json", _describe(source))
    return out


def _tsv_line(utterance: Utterance, root: Path) -> str:
    path = str(Path(utterance.path).relative_to(root))
    if {"\t", "\n"} & set(path):
        raise InputError(f"{path!r}: a path must have no tab or line break in fairseq's manifests")
    return f"{path}\t{utterance.num_samples}"


def _rows(units: Frames) -> Sequence[list[int]]:
    return [units[i].tolist() for i in range(len(units))]


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _describe(source: UnitsFolder) -> dict[str, Any]:
    """Where the units come from, and what fairseq would stumble over."""
    utterances = source.fold.manifest.utterances
    rates = Counter(u.sample_rate for u in utterances if u.sample_rate != SAMPLE_RATE_HZ)
    cut = sum(u.duration_s > source.cut.max_duration_s for u in utterances)
    notes = ["num_samples are at 16 kHz; units come 50 a second: label_rate=50"]
    if rates:
        notes.append(
            f"{sum(rates.values())} files are not at 16 kHz, which fairseq needs: convert them"
        )
    if cut:
        notes.append(
            f"{cut} utterances are longer than corpus.max_duration_s = "
            f"{source.cut.max_duration_s:g}: their units end there; limit task.max_sample_size"
        )
    return {**_read_json(source.folder / "units.json"), "notes": notes}
