"""Which stage needs which, what each one's key is made of, and running what is missing."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.errors import InputError, refuse
from serkd.events import Observer
from serkd.features.backbone import Backbone, find_backbone
from serkd.features.quarantine import QuarantineError
from serkd.stages.context import Compute, Context, Ref, Stage
from serkd.stages.key import compute_key, used_values
from serkd.stages.lease import hold
from serkd.stages.store import Artifact, StageStore
from serkd.units.genders import gender_problems


@dataclass(frozen=True)
class StageResult:
    """How one requested stage was had."""

    ref: Ref
    key: str
    is_cached: bool
    seconds: float


class Graph:
    """The stages of one experiment on one fold."""

    def __init__(self, stages: Mapping[str, Stage], experiment: Experiment, fold: Fold) -> None:
        self.stages, self.experiment, self.fold = stages, experiment, fold
        self._fields: dict[Ref, dict[str, Any]] = {}

    @cached_property
    def backbone(self) -> Backbone:
        """Resolved once."""
        return find_backbone(self.experiment.backbone.name)

    def check(self) -> None:
        """Refuse what cannot work before any work is done.

        Raises:
            InputError: no such backbone or layer, more clusters than training frames, or a gender
                mode that the corpus does not allow.
        """
        name, limit = self.backbone.name, self.backbone.num_layers
        frozen, mode = self.experiment.backbone.frozen_layers, self.experiment.units.gender_mode
        above = [layer for layer in self.experiment.units.layers if layer > limit]
        by_gender = self._most_train_frames()
        problems = gender_problems(mode, self.fold, by_gender)
        is_apart = mode.is_apart and not problems
        frames = min(by_gender.values()) if is_apart else sum(by_gender.values())
        too_many = [count for count in self.experiment.units.num_clusters if count > frames]
        if above:
            problems.append(f"units.layers must be at most {limit} for {name}, got {above}")
        if frozen > limit:
            problems.append(
                f"backbone.frozen_layers must be at most {limit} for {name}, got {frozen}"
            )
        if too_many:
            problems.append(
                "units.num_clusters must be at most the number of training frames"
                f"{' of a gender' if is_apart else ''}, about {frames} "
                f"in fold {self.fold.name}, got {too_many}"
            )
        refuse(problems)

    def _most_train_frames(self) -> dict[str, int]:
        """Upper bounds for each gender: no encoder makes more than one frame every 20 ms."""
        longest = self.experiment.corpus.max_duration_s
        seconds: dict[str, float] = {}
        for utterance in map(self.fold.manifest.by_id.__getitem__, self.fold.train):
            known = seconds.get(utterance.gender, 0.0)
            seconds[utterance.gender] = known + min(utterance.duration_s, longest)
        return {gender: int(50 * total) for gender, total in seconds.items()}

    def inputs(self, ref: Ref) -> Sequence[Ref]:
        """The stages whose artifacts a stage reads."""
        return self.stages[ref.stage].inputs(self.experiment, ref)

    def fields(self, ref: Ref) -> dict[str, Any]:
        """Everything that a stage's key is made of."""
        if ref not in self._fields:
            stage = self.stages[ref.stage]
            found: dict[str, Any] = {
                "stage": ref.stage,
                "version": stage.version,
                "config": used_values(self.experiment, stage.uses),
                "inputs": [self.key(used) for used in self.inputs(ref)],
            }
            if ref.scale:
                found["scale"] = list(ref.scale)
            if stage.reads_audio:
                found["audio"] = self.fold.manifest.audio_hash
            if stage.reads_genders and self.experiment.units.gender_mode.in_units != "no":
                found["genders"] = self.fold.manifest.gender_hash
            if stage.reads_backbone:
                found["backbone"] = self.backbone.weight_hash
            if stage.fits != "none":
                found["train"] = self.fold.train_hash
            if stage.fits == "train+dev":
                found["dev"] = self.fold.dev_hash
            self._fields[ref] = found
        return self._fields[ref]

    def key(self, ref: Ref) -> str:
        """The content key; chained, since the inputs' keys are fields."""
        return compute_key(self.fields(ref))

    def closure(self, targets: Sequence[Ref]) -> list[Ref]:
        """The targets and all that they need, level by level: inputs first, groups together."""
        levels: dict[Ref, int] = {}

        def visit(ref: Ref) -> int:
            if ref not in levels:
                levels[ref] = 1 + max((visit(used) for used in self.inputs(ref)), default=-1)
            return levels[ref]

        for target in targets:
            visit(target)
        return sorted(levels, key=levels.__getitem__)

    def run(
        self, targets: Sequence[Ref], store: StageStore, compute: Compute, observer: Observer
    ) -> tuple[dict[Ref, Artifact], list[StageResult]]:
        """Have the targets: read what is stored, compute what is missing.

        Returns the artifacts of all stages that exist now, and how each was had.
        """
        artifacts: dict[Ref, Artifact] = {}
        results: list[StageResult] = []
        ordered, needed = self.closure(targets), self._needed(targets, store)
        computed: set[Ref] = set()
        for ref in ordered:
            key = self.key(ref)
            found = store.find(ref.stage, key)
            if found is None:
                if ref not in needed:
                    continue  # a later stage is stored, so nobody reads this one
                group = [other for other in ordered if other.group == ref.group]
                missing = [other for other in group if other in needed]
                computed |= self._compute(missing, artifacts, store, compute, observer)
                found = store.get(ref.stage, key)
            if self.stages[ref.stage].fits != "none":
                found.require_fold(self.fold)
            artifacts[ref] = found
            is_cached = ref not in computed
            results.append(StageResult(ref, key, is_cached, found.seconds))
            observer.stage(str(ref), key, is_cached=is_cached, seconds=found.seconds)
            if is_cached:
                _replay(ref, found, observer)
        return artifacts, results

    def _needed(self, targets: Sequence[Ref], store: StageStore) -> set[Ref]:
        """What is missing of the targets and of what those need."""
        found: set[Ref] = set()
        waiting = list(targets)
        while waiting:
            ref = waiting.pop()
            if ref not in found and store.find(ref.stage, self.key(ref)) is None:
                found.add(ref)
                waiting += self.inputs(ref)
        return found

    def _compute(
        self,
        group: Sequence[Ref],
        artifacts: Mapping[Ref, Artifact],
        store: StageStore,
        compute: Compute,
        observer: Observer,
    ) -> set[Ref]:
        """Compute those of a group that nobody else has by now; returns them."""
        with ExitStack() as held:
            # every process takes them in this order, so that none waits for another in a circle
            for ref in sorted(group, key=self.key):
                name, work = f"{ref.stage}-{self.key(ref)}", store.work(ref.stage, self.key(ref))
                held.enter_context(hold(name, work.with_name(f"{work.name}.lock")))
            missing = [ref for ref in group if store.find(ref.stage, self.key(ref)) is None]
            contexts = [self._context(ref, artifacts, store, compute, observer) for ref in missing]
            if contexts:
                self._run_group(contexts, store)
        return set(missing)

    def _context(
        self,
        ref: Ref,
        artifacts: Mapping[Ref, Artifact],
        store: StageStore,
        compute: Compute,
        observer: Observer,
    ) -> Context:
        context = Context(
            ref,
            self.experiment,
            self.stages[ref.stage].uses,
            self.fold,
            self.backbone,
            {used: artifacts[used] for used in self.inputs(ref)},
            store.work(ref.stage, self.key(ref)),
            compute,
            observer,
        )
        context.folder.mkdir(parents=True, exist_ok=True)
        return context

    def _run_group(self, contexts: Sequence[Context], store: StageStore) -> None:
        """Run the stage's function and publish what it made."""
        stage = self.stages[contexts[0].ref.stage]
        if not stage.clusters:
            contexts[0].compute.close()
        started = time.perf_counter()
        try:
            stage.run(contexts)
        except QuarantineError:
            raise  # the good parts stay, and the list of the bad files
        except InputError:
            for context in contexts:  # going on from it would fail again
                shutil.rmtree(context.work, ignore_errors=True)
            raise
        seconds = (time.perf_counter() - started) / len(contexts)
        is_fitted = stage.fits != "none"
        for context in contexts:
            info = {
                "fields": self.fields(context.ref),
                "seconds": seconds,
                "device": context.compute.device,
                "fold": self.fold.name if is_fitted else None,
                "train_hash": self.fold.train_hash if is_fitted else None,
            }
            store.publish(context.ref.stage, self.key(context.ref), context.folder, info)


def _replay(ref: Ref, artifact: Artifact, observer: Observer) -> None:
    """Tell the epochs of a stored training stage again."""
    history = artifact.folder / "history.json"
    if history.is_file():
        for record in json.loads(history.read_text(encoding="utf-8")):
            observer.epoch(str(ref), record)
