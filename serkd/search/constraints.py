"""What every trial of a space must keep, checked before anything is trained."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from serkd.config import Experiment
from serkd.search.expression import Expression, parse_expression
from serkd.search.footprint import count_student, measure_latency
from serkd.search.space import Rule
from serkd.stages.key import get_dotted, list_leaves

# of a student, and not of its settings
MEASURED: dict[str, Callable[[Experiment, int], float]] = {
    "parameters": count_student,
    "latency_ms": measure_latency,
}


class Constraints:
    """The constraints of a space, parsed; `num_classes` is what a student's last layer has.

    Raises:
        ValueError: all of what is wrong with them, one a line.
    """

    def __init__(self, constraints: Sequence[str | Rule], num_classes: int) -> None:
        self.num_classes = num_classes
        self.parsed: list[tuple[str, Expression]] = []
        problems = []
        for i, constraint in enumerate(constraints):
            text = constraint if isinstance(constraint, str) else write_rule(constraint)
            try:
                expression = parse_expression(text)
                problems += [f"constraints.{i}: {line}" for line in _name_problems(expression)]
                self.parsed.append((text, expression))
            except ValueError as error:
                problems.append(f"constraints.{i}: {error}")
        if problems:
            raise ValueError("\n".join(problems))

    def compute(self, expression: Expression, experiment: Experiment) -> Any:  # noqa: ANN401
        """What an expression is for an experiment; see `Expression.compute`."""
        return expression.compute(_Values(experiment, self.num_classes))

    def find_broken(self, experiment: Experiment) -> str | None:
        """The first constraint that an experiment does not keep, with its values; None = legal.

        Those of settings alone come first, so that no illegal student is measured.
        """
        values = _Values(experiment, self.num_classes)
        ordered = sorted(self.parsed, key=lambda each: any(n in MEASURED for n in each[1].names))
        for text, expression in ordered:
            try:
                found = expression.compute(values)
            except ValueError as error:
                return str(error)
            if not isinstance(found, bool):
                return f"{text!r} must be true or false, got {found!r}"
            if not found:
                said = ", ".join(f"{name} = {_show(values[name])}" for name in expression.names)
                return f"must keep {text!r}, got {said}"
        return None


class _Values(Mapping[str, Any]):
    """Values of an experiment by name, each looked up when it is asked for."""

    def __init__(self, experiment: Experiment, num_classes: int) -> None:
        self.experiment, self.num_classes = experiment, num_classes

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        if name in MEASURED:
            return MEASURED[name](self.experiment, self.num_classes)
        value = get_dotted(self.experiment, name)
        return list(value) if isinstance(value, tuple) else value

    def __iter__(self) -> Iterator[str]:
        return iter(MEASURED)

    def __len__(self) -> int:
        return len(MEASURED)


def write_rule(rule: Rule) -> str:
    """A structured rule as an expression."""
    low = "" if rule.min is None else f"{rule.min!r} <= "
    high = "" if rule.max is None else f" <= {rule.max!r}"
    return f"{low}{rule.value}{high}"


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def _name_problems(expression: Expression) -> Iterator[str]:
    if not expression.names:
        yield f"must name a key, parameters or latency_ms, got {expression.text!r}"
    known = [*MEASURED, *list_leaves(Experiment)]
    for name in expression.names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            quoted = f" (text needs quotes: '{name}')" if "." not in name else ""
            yield f"must name keys of an experiment, got {name!r}{quoted}{hint}"
