"""Stages that many trials need, computed before them with the whole machine."""

from collections.abc import Iterable, Sequence

from serkd import runtime
from serkd.events import Observer
from serkd.stages.context import Compute, Ref
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore


def compute_first(
    wanted: Iterable[tuple[Graph, Sequence[Ref]]],
    store: StageStore,
    device: str,
    observer: Observer,
) -> None:
    """Have some stages of some graphs, each once; Ray is running."""
    actors = runtime.cluster_actors(is_shared=store.mirror is None)
    compute = Compute(*actors, device=device)
    seen: set[str] = set()
    try:
        for graph, refs in wanted:
            new = [ref for ref in refs if graph.key(ref) not in seen]
            seen |= {graph.key(ref) for ref in new}
            graph.run(new, store, compute, observer)
    finally:
        compute.close()


def is_stored(store: StageStore, name: str) -> bool:
    """Whether the stage that somebody holds the lease of is published."""
    stage, _, key = name.rpartition("-")
    return store.find(stage, key) is not None
