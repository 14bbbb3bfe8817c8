"""Where trials come from: a list that is known before, or a search that learns from those before.

See `serkd.search.study` for the search.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serkd.search.replay import Replay, Trial


@dataclass(frozen=True)
class Proposal:
    """A trial to be run; equal parameters are the same trial, whatever its label.

    `attrs` and `study_attrs` are what the search must know after a crash.
    """

    params: Mapping[str, Any]
    label: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    study_attrs: Mapping[str, Any] = field(default_factory=dict)


class Proposals(Protocol):
    """Asked for trials one after another, told how each ended."""

    @property
    def total(self) -> int:
        """How many trials there will be."""
        ...

    def propose(self, number: int, replay: Replay) -> Proposal | None:
        """The trial of that number; None if there is none left."""
        ...

    def tell(self, trial: Trial) -> None:
        """A trial was finished, pruned or failed; one that was finished may be pruned later."""
        ...


class Listed:
    """Every trial of a list, once; those that the ledger knows are not proposed again."""

    def __init__(self, proposals: Sequence[Proposal]) -> None:
        self._left = {_name(p.params): p for p in reversed(proposals)}
        self.total = len(self._left)
        self._known: set[str] | None = None  # to the ledger, when the first is asked for

    def propose(self, number: int, replay: Replay) -> Proposal | None:
        if self._known is None:
            self._known = {_name(t.params) for t in replay.current()}
        while self._left:
            name, proposal = self._left.popitem()
            if name not in self._known:
                return proposal
        return None

    def tell(self, trial: Trial) -> None:
        """A list learns nothing."""


def _name(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
