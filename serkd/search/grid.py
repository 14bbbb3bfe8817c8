"""Every trial of a space whose values can be counted."""

from collections.abc import Iterator, Mapping
from typing import Any

from serkd.search.dimension import Dimension
from serkd.search.suggest import is_asked


def list_cells(dimensions: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """All combinations, each once, the last key changing fastest; without keys that are not asked.

    Every dimension can be counted: sampler 'grid' is refused otherwise.
    """
    yield from _extend({}, list(dimensions), dimensions)


def _extend(
    chosen: dict[str, Any], left: list[str], dimensions: Mapping[str, Dimension]
) -> Iterator[dict[str, Any]]:
    if not left:
        yield chosen
        return
    dotted, rest = left[0], left[1:]
    dimension = dimensions[dotted]
    if not is_asked(dimension, dimensions, chosen):
        yield from _extend(chosen, rest, dimensions)
        return
    values = dimension.values()
    assert values is not None, f"{dotted} has no steps"
    for value in values:
        yield from _extend({**chosen, dotted: value}, rest, dimensions)
