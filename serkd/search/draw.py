"""Trials of a space at random, without Optuna: thousands of them where no study is needed."""

import math
import random
from collections.abc import Mapping
from typing import Any

from serkd.search.dimension import Dimension
from serkd.search.suggest import is_asked


def draw_params(
    dimensions: Mapping[str, Dimension],
    rng: random.Random,
    fixed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One trial, all values alike likely; `fixed` keys, where they are asked, have theirs."""
    chosen: dict[str, Any] = {}
    for dotted, dimension in dimensions.items():
        if is_asked(dimension, dimensions, chosen):
            is_fixed = fixed is not None and dotted in fixed
            chosen[dotted] = fixed[dotted] if is_fixed and fixed else _draw(dimension, rng)
    return chosen


def _draw(dimension: Dimension, rng: random.Random) -> Any:  # noqa: ANN401  a value of the key
    values = None if dimension.log else dimension.values()
    if values is not None:
        return rng.choice(values)
    low, high = dimension.int or dimension.float or (0, 0)
    if not dimension.log:
        return rng.uniform(low, high)
    drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
    if dimension.int is not None:
        return min(high, max(low, round(drawn)))
    return min(float(high), max(float(low), drawn))
