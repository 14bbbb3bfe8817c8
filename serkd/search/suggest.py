"""What Optuna is asked, and what its parameters say: define-by-run over a space."""

import json
from collections.abc import Mapping
from typing import Any

import optuna

from serkd.search.dimension import Dimension, is_same


def suggest(trial: optuna.Trial, dimensions: Mapping[str, Dimension]) -> None:
    """Ask Optuna for every active key, in the file's order; conditions see the keys above.

    Choices travel as JSON text, because Optuna stores only plain values.
    """
    chosen: dict[str, Any] = {}
    for dotted, dimension in dimensions.items():
        if not is_asked(dimension, dimensions, chosen):
            continue
        if dimension.choice is not None:
            texts = [json.dumps(value) for value in dimension.choice]
            chosen[dotted] = json.loads(trial.suggest_categorical(dotted, texts))
        elif dimension.int is not None:
            step = round(dimension.step or 1)
            chosen[dotted] = trial.suggest_int(dotted, *dimension.int, step=step, log=dimension.log)
        elif dimension.float is not None:
            chosen[dotted] = trial.suggest_float(
                dotted, *dimension.float, step=dimension.step, log=dimension.log
            )


def is_asked(
    dimension: Dimension, dimensions: Mapping[str, Dimension], chosen: Mapping[str, Any]
) -> bool:
    """Whether the conditions of a key hold, given the values of the keys above it."""
    return all(
        name in chosen
        and any(is_same(chosen[name], value) for value in meant(dimensions[name], wanted))
        for name, wanted in dimension.when.items()
    )


def meant(dimension: Dimension, wanted: object) -> list[Any]:
    """The values that a `when` names: one value of a key, or a list of some."""
    is_list = isinstance(wanted, list) and not dimension.admits(wanted)
    return wanted if is_list else [wanted]  # type: ignore[return-value]


def encode_params(dimensions: Mapping[str, Dimension], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key, as `suggest` hands them to Optuna."""
    return {
        dotted: value if dimensions[dotted].choice is None else json.dumps(value)
        for dotted, value in values.items()
    }


def decode_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `suggest`'s encoding: dotted keys to values."""
    return {
        dotted: json.loads(value) if isinstance(value, str) else value
        for dotted, value in params.items()
    }
