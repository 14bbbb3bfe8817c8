"""Experiments of a space's trials, thousands a second: what trials have in common is made once."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError

from serkd.config import Experiment
from serkd.errors import InputError
from serkd.search.constraints import Constraints
from serkd.section import Section, set_dotted, validate


class Builder:
    """The base with a trial's values laid over it; equal sections are the same object."""

    def __init__(self, base: Experiment, dotted_keys: tuple[str, ...]) -> None:
        self.base = base
        self._keys: dict[str, list[str]] = {}  # by section
        for dotted in dotted_keys:
            self._keys.setdefault(dotted.partition(".")[0], []).append(dotted)
        self._sections: dict[tuple[Any, ...], Section | InputError] = {}
        self._fixed = {
            name: getattr(base, name) for name in Experiment.model_fields if name not in self._keys
        }

    def build(self, params: Mapping[str, Any]) -> Experiment:
        """The experiment of a trial, from its values by dotted key.

        Raises:
            InputError: the values do not go together.
        """
        sections: dict[str, Any] = {
            name: self._section(name, keys, params) for name, keys in self._keys.items()
        }
        try:
            return Experiment(**self._fixed, **sections)
        except ValidationError as error:
            said = [item["msg"].removeprefix("Value error, ") for item in error.errors()]
            raise InputError(*said) from error

    def _section(self, name: str, keys: list[str], params: Mapping[str, Any]) -> Section:
        values = {dotted: params[dotted] for dotted in keys if dotted in params}
        if not values:
            return cast(Section, getattr(self.base, name))
        known = (name, *((dotted, repr(value)) for dotted, value in values.items()))
        if known not in self._sections:
            self._sections[known] = self._validate(name, values)
        found = self._sections[known]
        if isinstance(found, InputError):
            raise found
        return found

    def _validate(self, name: str, values: Mapping[str, Any]) -> Section | InputError:
        section: Section = getattr(self.base, name)
        data = section.model_dump(mode="json")
        for dotted, value in values.items():
            set_dotted(data, dotted.partition(".")[2], value)
        try:
            return validate(type(section), data, name)
        except InputError as error:
            return error


class Legality:
    """Whether a trial may run: its values go together, and it keeps the space's constraints."""

    def __init__(self, builder: Builder, constraints: Constraints) -> None:
        self.builder, self.constraints = builder, constraints

    def build(self, params: Mapping[str, Any]) -> Experiment:
        """The experiment of a legal trial.

        Raises:
            InputError: its values do not go together, or it breaks a constraint.
        """
        experiment = self.builder.build(params)
        if (broken := self.constraints.find_broken(experiment)) is not None:
            raise InputError(broken)
        return experiment

    def find_problem(self, params: Mapping[str, Any]) -> str | None:
        """Why a trial must not run; None = it may."""
        try:
            self.build(params)
        except InputError as error:
            return str(error)
        return None
