"""What a stage is, and what its function is given when it runs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from serkd.config import Experiment
from serkd.corpora.audio import Cut
from serkd.corpora.folds import Fold
from serkd.events import Observer
from serkd.features.backbone import Backbone
from serkd.stages.key import get_dotted
from serkd.stages.store import Artifact, lineage
from serkd.units.actors import Clustering


@dataclass(frozen=True)
class Ref:
    """A stage of an experiment.

    `scale` is () where there is one, (layer,) where there is one per layer, and
    (layer, num_clusters) where there is one per scale. `inner` is the number, from 1, of the inner
    fold that it is of; None is the experiment's own fold.
    """

    stage: str
    scale: tuple[int, ...] = ()
    inner: int | None = None

    @property
    def group(self) -> tuple[str, tuple[int, ...], int | None]:
        """Equal for those that are computed together, in one pass over what they read.

        All layers of the features or hidden states, and all numbers of clusters of a layer.
        """
        return self.stage, self.scale[:-1], self.inner

    @property
    def outer(self) -> "Ref":
        """The same stage of the experiment's own fold."""
        return replace(self, inner=None)

    def __str__(self) -> str:
        name = f"{self.stage} {'/'.join(map(str, self.scale))}".rstrip()
        return name if self.inner is None else f"{name} inner {self.inner}"


@dataclass
class Compute:
    """What a process may use; never part of a key.

    `num_actors` = 0 works in this process, for trials, which have a slice of their own. Who does
    not wait for a stage that another process computes is told by a StageBusyError.
    """

    num_actors: int = 0
    num_gpus: float = 0.0
    device: str = "cpu"
    waits: bool = True

    @property
    def actor_device(self) -> str:
        """Where actors compute: the driver's own machine may have no GPU."""
        return "cuda" if self.num_gpus else self.device

    @cached_property
    def clustering(self) -> Clustering:
        """Shards for the frames of one layer after another."""
        return Clustering(num_actors=self.num_actors, has_gpus=self.num_gpus > 0)

    def close(self) -> None:
        """End the clustering actors, if there are any."""
        if "clustering" in self.__dict__:
            self.clustering.close()
            del self.clustering


@dataclass(frozen=True)
class Context:
    """What a stage's function is given.

    Only declared config keys can be read. The fold knows no test label, and no context can be
    made with an artifact that was fitted on another fold, but for the fold's own `inner_folds`: an
    input that is of one of them must be fitted on that one. A stage of an inner fold (`is_inner`)
    is given it as its fold, and knows of no other.
    """

    ref: Ref
    experiment: Experiment
    uses: tuple[str, ...]
    fold: Fold
    inner_folds: tuple[Fold, ...]
    backbone: Backbone
    inputs: Mapping[Ref, Artifact]
    work: Path
    compute: Compute
    observer: Observer
    is_inner: bool = False

    def __post_init__(self) -> None:
        for ref, artifact in self.inputs.items():
            artifact.require_fold(self._fold_of(ref))

    def _fold_of(self, ref: Ref) -> Fold:
        return self.fold if ref.inner is None else self.inner_folds[ref.inner - 1]

    @property
    def folder(self) -> Path:
        """Where the artifact's files go."""
        return self.work / "artifact"

    def config(self, dotted: str) -> Any:  # noqa: ANN401  a leaf or a section
        """A declared value or section; reading another one is a bug: it has no part in the key."""
        if not any(dotted == used or dotted.startswith(f"{used}.") for used in self.uses):
            raise KeyError(f"stage {self.ref.stage} reads {dotted}, which it does not declare")
        return get_dotted(self.experiment, dotted)

    @property
    def cut(self) -> Cut:
        """Which part of every recording is heard."""
        return Cut(self.config("corpus.max_duration_s"), self.config("corpus.trim_silence_db"))

    def input(self, stage: str) -> Artifact:
        """The only input of that stage's name."""
        (found,) = (artifact for ref, artifact in self.inputs.items() if ref.stage == stage)
        return found

    def fitted_file(self, stage: str, name: str) -> Path:
        """A safetensors file of an input, which says that it was fitted on this fold."""
        return self.input(stage).fitted_file(name, self.fold)

    def inner_files(self, stage: str, name: str) -> list[tuple[Fold, Path]]:
        """Such a file of every inner fold, which says that it was fitted on that one."""
        return [
            (fold, self.inputs[Ref(stage, inner=i)].fitted_file(name, fold))
            for i, fold in enumerate(self.inner_folds, start=1)
        ]

    @property
    def facts(self) -> dict[str, str]:
        """What a file of fitted numbers is to say of itself."""
        return lineage(self.fold, self.backbone, str(self.ref))

    @property
    def lineage(self) -> dict[str, str]:
        """The facts as safetensors' metadata.

        One entry: it writes several in any order, and equal runs give equal bytes.
        """
        return {"lineage": json.dumps(self.facts)}


@dataclass(frozen=True)
class Stage:
    """One kind of stage.

    `run` gets those of a group that are missing (see `Ref.group`), one where it has no scale.
    `version` is raised by hand when the code's results change. `uses` are dotted config paths.
    `fits` says what it, or the models that it reads, learned from: labels of no utterances, of
    train, or of train and dev.
    """

    version: int
    uses: tuple[str, ...]
    inputs: Callable[[Experiment, Ref], Sequence[Ref]]
    fits: Literal["none", "train", "train+dev"]
    run: Callable[[Sequence[Context]], None]
    reads_audio: bool = False
    reads_backbone: bool = False
    reads_votes: bool = False  # of train, where they say what is difficult
    reads_genders: bool = False  # of all utterances, where units say gender
    clusters: bool = False  # others get back what clustering holds: GPUs and memory


def alone(run: Callable[[Context], None]) -> Callable[[Sequence[Context]], None]:
    """The function of a stage that has no scale."""

    def run_only(contexts: Sequence[Context]) -> None:
        (context,) = contexts
        run(context)

    return run_only
