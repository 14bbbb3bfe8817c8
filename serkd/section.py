"""Strict, frozen settings, and messages that tell a user all that is wrong with them."""

import difflib
import json
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from serkd.errors import InputError


class Section(BaseModel):
    """A frozen group of settings that knows all its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def validate(model: type[SectionT], data: Mapping[str, Any], origin: str) -> SectionT:
    """Build a section from parsed YAML; every problem is reported, each with its dotted path."""
    try:
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = [f"{origin}: {problem}" for problem in _problems(model, error)]
        raise InputError(*problems) from error
    # YAML knows dates, sets, and mappings that hold themselves; experiments do not
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{origin}: must hold numbers, text, lists and sections: {error}"
        ) from error


def _problems(model: type[Section], error: ValidationError) -> Iterator[str]:
    items = error.errors()
    for item in items:
        inside = [other["loc"] for other in items if other["loc"][:-1] == item["loc"]]
        if item["type"] == "too_short" and inside:
            continue  # the wrong items, which are reported, are what it lacks
        dotted = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            yield _unknown_key(model, dotted, item["loc"])
        elif item["type"] == "missing":
            yield f"{dotted}: must be given"
        elif item["type"] == "too_short":
            least = item["ctx"]["min_length"]
            yield f"{dotted}: must have at least {least} value(s), got {item['input']!r}"
        elif item["type"] == "value_error":
            yield f"{dotted}: {item['msg'].removeprefix('Value error, ')}".removeprefix(": ")
        else:
            rule = item["msg"].replace("Input should be", "must be", 1)
            yield f"{dotted}: {rule}, got {item['input']!r}"


def _unknown_key(model: type[Section], dotted: str, location: tuple[int | str, ...]) -> str:
    kinds: list[Any] = [model]
    for name in location[:-1]:
        # pydantic names the members of a union on the way: those are no step
        kinds = [one for kind in kinds for one in _step(kind, name)] or kinds
    legal = sorted({name for kind in kinds for name in getattr(kind, "model_fields", ())})
    near = difflib.get_close_matches(str(location[-1]), legal, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{dotted}: unknown key; {hint}allowed: {', '.join(legal)}"


def _step(kind: Any, name: int | str) -> Iterator[Any]:  # noqa: ANN401  any annotation
    """What may be at a key of a section, of a mapping, or at a place of a list."""
    if name in (fields := getattr(kind, "model_fields", {})):
        yield from _members(fields[name].annotation)
    elif inner := [each for each in get_args(kind) if each is not ...]:
        yield from _members(inner[-1])  # of a mapping, its values


def _members(kind: Any) -> Iterator[Any]:  # noqa: ANN401  any annotation
    """A type without `Annotated`; of a union, each that is not None."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _members(get_args(kind)[0])
    elif origin in (Union, UnionType):
        for each in get_args(kind):
            yield from _members(each)
    elif kind is not NoneType:
        yield kind


def set_dotted(data: dict[str, Any], dotted: str, value: object) -> None:
    """Put a value at a dotted path of nested mappings, in place."""
    *parents, leaf = dotted.split(".")
    for name in parents:
        child = data.setdefault(name, {})
        if not isinstance(child, dict):
            raise InputError(f"--set {dotted}: {name} must be a section, but it is {child!r}")
        data = child
    data[leaf] = value
