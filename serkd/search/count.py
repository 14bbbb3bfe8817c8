"""Which stages many experiments need, and how many of them are different.

What differs between two stages' keys is followed through the graph without corpus, folds or hashes,
and what two experiments have in common is followed once: a hundred thousand take seconds.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from serkd.config import Experiment
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.context import Ref
from serkd.stages.graph import list_inputs
from serkd.stages.key import used_values


@dataclass(frozen=True, eq=False)
class Node:
    """One stage as far as an experiment decides it; the same object for equal ones.

    Fold and seed come on top: `has_fold` and `has_seed` say whether they make others of it.
    """

    ref: Ref
    uses: tuple[dict[str, Any], ...]
    inputs: tuple["Node", ...]
    has_fold: bool
    has_seed: bool


@dataclass
class Counts:
    """What a sweep would ask for, and compute."""

    requests: int = 0
    nodes: dict[Node, int] = field(default_factory=dict)  # with how many experiments ask for it
    students: Counter[Node] = field(default_factory=Counter)  # with how many trials are equal

    @property
    def num_experiments(self) -> int:
        """How many are different."""
        return len(self.students)

    def copies(self, node: Node, num_folds: int, num_seeds: int) -> int:
        """How many stages a node stands for in a design of folds and seeds."""
        return (num_folds if node.has_fold else 1) * (num_seeds if node.has_seed else 1)


class Tracer:
    """Finds the nodes of experiments, one after another.

    What a stage's node depends on are the sections that it and its inputs read. They are noted
    while it is made, and the next time it is looked up by those. Sections are told apart by
    identity: `serkd.search.build.Builder` makes equal ones once.
    """

    def __init__(self) -> None:
        self.num_computed = 0  # lookups that found nothing: what tracing costs
        self._known: dict[Hashable, tuple[tuple[str, ...], dict[tuple[int, ...], Any]]] = {}
        self._made: dict[Hashable, Any] = {}
        self._alive: dict[int, Any] = {}  # an id is only its object's while that lives

    def trace(self, experiments: Iterable[Experiment]) -> Counts:
        """Count what the students of `experiments` need; equal experiments count once."""
        counts = Counts()
        asked: Counter[Node] = Counter()
        groups: Counter[tuple[Node, ...]] = Counter()
        for experiment in experiments:
            # not looked up as a whole: students differ, what they read does not
            student = self._make(experiment, STUDENT)
            counts.students[student] += 1
            if counts.students[student] == 1:
                groups[student.inputs] += 1
        for inputs, count in groups.items():
            upstream = dict.fromkeys(node for used in inputs for node in closure(used))
            counts.requests += count * (1 + len(upstream))
            asked.update(dict.fromkeys(upstream, count))
        counts.nodes = {**dict.fromkeys(counts.students, 1), **asked}
        return counts

    def find(self, experiment: Experiment, ref: Ref) -> Node:
        """The node of a stage."""
        found: Node = self._lookup(ref, experiment, lambda e: self._make(e, ref))
        return found

    def _make(self, experiment: Experiment, ref: Ref) -> Node:
        stage = STAGES[ref.stage]
        needed = self._lookup(
            ("inputs", ref), experiment, lambda e: tuple(list_inputs(STAGES, e, ref))
        )
        inputs = tuple(self.find(experiment, used) for used in needed)
        names = (*stage.uses, "backbone.name") if stage.reads_backbone else stage.uses
        uses = tuple(self._use(experiment, name) for name in names)
        key = (ref, *map(id, uses), *map(id, inputs))
        if (known := self._made.get(key)) is None:
            has_fold = stage.fits != "none" or any(node.has_fold for node in inputs)
            has_seed = "seed" in stage.uses or any(node.has_seed for node in inputs)
            known = self._made[key] = Node(ref, uses, inputs, has_fold, has_seed)
        return cast(Node, known)

    def _use(self, experiment: Experiment, name: str) -> dict[str, Any]:
        """The settings below a declared name; the same object for equal ones."""
        found: dict[str, Any] = self._lookup(
            ("uses", name), experiment, lambda e: self._intern(used_values(e, (name,)))
        )
        return found

    def _lookup(
        self, what: Hashable, experiment: Experiment, compute: Callable[[Experiment], Any]
    ) -> Any:  # noqa: ANN401  whatever it computes
        read, known = self._known.get(what, ((), {}))
        key = tuple(id(getattr(experiment, section)) for section in read)
        if key in known:
            return known[key]
        self.num_computed += 1
        noting = _Noting(experiment)
        found = compute(cast(Experiment, noting))
        if what not in self._known or not noting.sections <= {*read}:
            # another way through the graph reads more than those that are known so far
            read, known = tuple(sorted({*read, *noting.sections})), {}
            self._known[what] = (read, known)
        sections = [getattr(experiment, section) for section in read]
        self._alive |= {id(section): section for section in sections}
        known[tuple(map(id, sections))] = found
        return found

    def _intern(self, value: dict[str, Any]) -> dict[str, Any]:
        return cast(dict[str, Any], self._made.setdefault(repr(value), value))


def closure(node: Node) -> list[Node]:
    """The node and all that it needs, each once."""
    found: dict[Node, None] = {node: None}
    for used in node.inputs:
        found |= dict.fromkeys(closure(used))
    return list(found)


class _Noting:
    """An experiment that notes which of its sections are read."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self.sections: set[str] = set()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        self.sections.add(name)
        return getattr(self._experiment, name)
