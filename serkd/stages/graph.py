"""Which stage needs which, what each one's key is made of, and running what is missing."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.corpora.inner import build_inner_folds
from serkd.errors import InputError, refuse
from serkd.events import Observer, Within
from serkd.features.backbone import Backbone, find_backbone
from serkd.features.quarantine import QuarantineError
from serkd.memory import give_back_memory
from serkd.stages.check import (
    find_adapter_problems,
    find_contrast_problems,
    find_fold_problems,
    find_input_problems,
    find_kd_problems,
    find_layer_problems,
    find_quiz_problems,
    find_share_problems,
    find_vote_problems,
)
from serkd.stages.context import Compute, Context, Ref, Stage
from serkd.stages.key import compute_key, used_values
from serkd.stages.lease import hold
from serkd.stages.store import Artifact, StageStore
from serkd.train.launch import has_checkpoint


@dataclass(frozen=True)
class StageResult:
    """How one requested stage was had."""

    ref: Ref
    key: str
    is_cached: bool
    seconds: float


def list_inputs(stages: Mapping[str, Stage], experiment: Experiment, ref: Ref) -> Sequence[Ref]:
    """The stages whose artifacts a stage reads.

    Those of an inner fold read each other, and share what learned from nobody.
    """
    found = stages[ref.stage].inputs(experiment, ref.outer)
    if ref.inner is None:
        return found
    return [
        used if stages[used.stage].fits == "none" else replace(used, inner=ref.inner)
        for used in found
    ]


def list_closure(
    stages: Mapping[str, Stage], experiment: Experiment, targets: Sequence[Ref]
) -> list[Ref]:
    """The targets and all that they need, level by level: inputs first, groups together."""
    levels: dict[Ref, int] = {}

    def visit(ref: Ref) -> int:
        if ref not in levels:
            used = list_inputs(stages, experiment, ref)
            levels[ref] = 1 + max(map(visit, used), default=-1)
        return levels[ref]

    for target in targets:
        visit(target)
    return sorted(levels, key=levels.__getitem__)


class Graph:
    """The stages of one experiment on one fold."""

    def __init__(self, stages: Mapping[str, Stage], experiment: Experiment, fold: Fold) -> None:
        self.stages, self.experiment, self.fold = stages, experiment, fold
        self._fields: dict[Ref, dict[str, Any]] = {}

    @cached_property
    def backbone(self) -> Backbone:
        """Resolved once."""
        return find_backbone(self.experiment.backbone.name)

    @cached_property
    def inner_folds(self) -> tuple[Fold, ...]:
        """Those of `teacher.inner_folds`."""
        count = self.experiment.teacher.inner_folds
        return build_inner_folds(self.fold, count) if count else ()

    def fold_of(self, ref: Ref) -> Fold:
        """The fold that a stage is of."""
        return self.fold if ref.inner is None else self.inner_folds[ref.inner - 1]

    def check(self, targets: Sequence[Ref]) -> None:
        """Refuse what cannot work before any work is done.

        Raises:
            InputError: no such backbone or layer, inner folds or a scorer that the corpus does not
                allow, adapters where the targets train no layer, or, where they need units, more
                clusters than training frames or a gender mode that the corpus does not allow.
        """
        closure = self.closure(targets)
        has_units = any(ref.stage == "units" for ref in closure)
        problems = find_layer_problems(self.experiment, self.backbone, has_units=has_units)
        if any("backbone.lora" in self.stages[ref.stage].uses for ref in closure):
            problems += find_adapter_problems(self.experiment, self.backbone)
        if any(self.stages[ref.stage].reads_votes for ref in targets):
            problems += find_vote_problems(self.experiment, self.fold)
        if any(ref.stage == "student" for ref in targets):
            problems += find_input_problems(self.experiment, self.backbone)
            problems += find_quiz_problems(self.experiment, self.fold)
            problems += find_kd_problems(self.experiment, self.fold)
            problems += find_contrast_problems(self.experiment, self.fold)
            problems += find_share_problems(self.experiment, self.fold)
        for fold in (self.fold, *self.inner_folds):
            problems += find_fold_problems(self.experiment, fold) if has_units else []
        refuse(problems)

    def inputs(self, ref: Ref) -> Sequence[Ref]:
        """The stages whose artifacts a stage reads."""
        return list_inputs(self.stages, self.experiment, ref)

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
            if stage.reads_votes and self.experiment.curriculum.needs_votes:
                found["votes"] = self.fold.manifest.vote_hash(self.fold.train)
            if stage.reads_backbone:
                found["backbone"] = self.backbone.weight_hash
            if stage.fits != "none":
                found["train"] = self.fold_of(ref).train_hash
            if stage.fits == "train+dev":
                found["dev"] = self.fold_of(ref).dev_hash
            self._fields[ref] = found
        return self._fields[ref]

    def key(self, ref: Ref) -> str:
        """The content key; chained, since the inputs' keys are fields."""
        return compute_key(self.fields(ref))

    def closure(self, targets: Sequence[Ref]) -> list[Ref]:
        """The targets and all that they need, level by level: inputs first, groups together."""
        return list_closure(self.stages, self.experiment, targets)

    def run(
        self, targets: Sequence[Ref], store: StageStore, compute: Compute, observer: Observer
    ) -> tuple[dict[Ref, Artifact], list[StageResult]]:
        """Have the targets: read what is stored, compute what is missing.

        Returns the artifacts that exist now of all stages but those of inner folds, which only
        other stages read, and how each stage was had.
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
                found.require_fold(self.fold_of(ref))
            artifacts[ref] = found
            is_cached = ref not in computed
            results.append(StageResult(ref, key, is_cached, found.seconds))
            observer.stage(str(ref), key, is_cached=is_cached, seconds=found.seconds)
            if is_cached:
                _replay(ref, found, observer)
        return {ref: one for ref, one in artifacts.items() if ref.inner is None}, results

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
                lock = work.with_name(f"{work.name}.lock")
                held.enter_context(hold(name, lock, waits=compute.waits))
            missing = [ref for ref in group if store.find(ref.stage, self.key(ref)) is None]
            contexts = {
                ref: self._context(ref, artifacts, store, compute, observer) for ref in missing
            }
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
        is_inner = ref.inner is not None
        context = Context(
            ref.outer,
            self.experiment,
            self.stages[ref.stage].uses,
            self.fold_of(ref),
            () if is_inner else self.inner_folds,
            self.backbone,
            # to the stages of an inner fold it is the only one
            {used.outer if is_inner else used: artifacts[used] for used in self.inputs(ref)},
            store.work(ref.stage, self.key(ref)),
            compute,
            Within(observer, f"inner {ref.inner}") if is_inner else observer,
            is_inner,
        )
        context.folder.mkdir(parents=True, exist_ok=True)
        return context

    def _run_group(self, contexts: Mapping[Ref, Context], store: StageStore) -> None:
        """Run the stage's function and publish what it made."""
        first, *_ = contexts.values()
        stage = self.stages[first.ref.stage]
        if not stage.clusters:
            first.compute.close()
        started = time.perf_counter()
        try:
            stage.run(list(contexts.values()))
        except QuarantineError:
            raise  # the good parts stay, and the list of the bad files
        except InputError:
            for context in contexts.values():
                # but for epochs, to go on from when the audio is there again, it would fail again
                if not has_checkpoint(context.work):
                    shutil.rmtree(context.work, ignore_errors=True)
            raise
        finally:
            give_back_memory()
        seconds = (time.perf_counter() - started) / len(contexts)
        is_fitted = stage.fits != "none"
        for ref, context in contexts.items():
            info = {
                "fields": self.fields(ref),
                "seconds": seconds,
                "device": context.compute.device,
                "fold": context.fold.name if is_fitted else None,
                "train_hash": context.fold.train_hash if is_fitted else None,
            }
            store.publish(ref.stage, self.key(ref), context.folder, info)


def _replay(ref: Ref, artifact: Artifact, observer: Observer) -> None:
    """Tell the epochs of a stored training stage again."""
    if history := artifact.read_file("history.json"):
        for record in json.loads(history):
            observer.epoch(str(ref), record)
