"""What is odd about a space, though it can be run."""

from collections.abc import Iterator

from serkd.config import Experiment
from serkd.config.active import find_inactive
from serkd.corpora.folds import Fold
from serkd.errors import InputError
from serkd.search.build import Builder
from serkd.search.count import Tracer
from serkd.search.preview import Preview
from serkd.search.space import Space
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.check import most_train_frames
from serkd.stages.graph import list_closure
from serkd.stages.key import get_dotted

FRAMES_PER_CENTROID = 50
_LOOKED_AT = 200  # trials


def list_warnings(
    space: Space, base: Experiment, folds: list[Fold], preview: Preview, builder: Builder
) -> list[str]:
    """All of them, one a line."""
    return [
        *_edge_warnings(space, base),
        *_idle_warnings(space, preview, builder),
        *_refusal_warnings(space, preview),
        *_cluster_warnings(folds, preview),
        *_sampler_warnings(space),
    ]


def _edge_warnings(space: Space, base: Experiment) -> Iterator[str]:
    for dotted, dimension in space.space.items():
        ends = dimension.int or dimension.float
        value = get_dotted(base, dotted)
        if ends is None or not isinstance(value, int | float):
            continue
        if not ends[0] < value < ends[1]:
            where = "at the edge of" if value in ends else "outside"
            yield (
                f"{dotted}: the base's {value:g} is {where} the range {ends[0]:g} to {ends[1]:g}: "
                "what is beyond is not tried"
            )


def _idle_warnings(space: Space, preview: Preview, builder: Builder) -> Iterator[str]:
    pairs = list(zip(preview.params, preview.experiments, strict=True))[:_LOOKED_AT]
    tracer = Tracer()
    for dotted, dimension in space.space.items():
        asked = [(params, e) for params, e in pairs if dotted in params]
        why = [found[dotted] for _, e in asked if dotted in (found := find_inactive(e, {dotted}))]
        if why:
            yield (
                f"{dotted}: has no effect in {len(why)} of {len(asked)} trials that vary it, "
                f"unless {why[0]}: give it a when"
            )
            continue
        others = [*dimension.examples()][:2]
        nodes = [
            len({tracer.find(each, STUDENT) for each in _vary(builder, params, dotted, others)})
            for params, _ in asked[:20]
        ]
        if nodes and max(nodes) == 1 < len(others):
            yield f"{dotted}: has no effect, no stage of these students reads it"


def _vary(
    builder: Builder, params: dict[str, object], dotted: str, values: list[object]
) -> Iterator[Experiment]:
    for value in values:
        try:
            yield builder.build({**params, dotted: value})
        except InputError:
            continue


def _refusal_warnings(space: Space, preview: Preview) -> Iterator[str]:
    total = sum(preview.refused.values()) + len(preview.params)
    for problem, count in preview.refused.most_common(3):
        yield f"{count} of {total} trials are not legal: {problem}"
    if preview.num_cells is not None and preview.num_cells > space.budget.trials:
        yield (
            f"the grid has {preview.num_cells:,} cells, budget.trials is {space.budget.trials:,}: "
            "only the first are run"
        )
    if preview.num_cells is None and len(preview.params) < space.budget.trials:
        yield (
            f"only {len(preview.params):,} different trials were found, of {space.budget.trials:,}"
        )


def _cluster_warnings(folds: list[Fold], preview: Preview) -> Iterator[str]:
    seen: set[tuple[object, ...]] = set()
    for experiment in preview.experiments:
        units = experiment.units
        what = (max(units.num_clusters), units.gender_mode.is_apart, units.max_points)
        if what in seen:
            continue
        seen.add(what)
        if not any(ref.stage == "centroids" for ref in list_closure(STAGES, experiment, [STUDENT])):
            continue
        by_gender = min(
            (most_train_frames(experiment, fold) for fold in folds), key=lambda f: sum(f.values())
        )
        is_apart = units.gender_mode.is_apart
        frames = min(by_gender.values()) if is_apart else sum(by_gender.values())
        if units.max_points is not None:
            frames = min(frames, units.max_points)
        largest = max(units.num_clusters)
        if largest * FRAMES_PER_CENTROID > frames:
            yield (
                f"units.num_clusters: {largest} has about {frames // largest} frames a centroid"
                f"{' of a gender' if is_apart else ''}, {FRAMES_PER_CENTROID} or more are wanted"
            )


def _sampler_warnings(space: Space) -> Iterator[str]:
    conditional = [dotted for dotted, dimension in space.space.items() if dimension.when]
    choices = [dotted for dotted, dimension in space.space.items() if not dimension.is_ordered]
    if space.sampler in ("qmc", "gp", "nsga2") and conditional:
        yield (
            f"sampler {space.sampler!r} draws conditional keys at random: {', '.join(conditional)}"
        )
    if space.sampler == "qmc" and choices:
        yield f"sampler 'qmc' draws choices at random: {', '.join(choices)}"
