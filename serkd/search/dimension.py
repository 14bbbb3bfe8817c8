"""One searched key, and the values that it may have."""

from typing import Any

from pydantic import Field, model_validator

from serkd.config.fit import PositiveFloat
from serkd.section import Section

_MAX_CHECKED = 256  # whole numbers of a range that are tried one by one

# named here, since the fields of Dimension hide the built-in names
IntRange = tuple[int, int]
FloatRange = tuple[float, float]


class Dimension(Section):
    """One searched key: exactly one of `choice`, `int` and `float`."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    int: IntRange | None = Field(None, description="lowest and highest, both included")
    float: FloatRange | None = Field(None, description="lowest and highest")
    log: bool = Field(False, description="int and float only: sample the logarithm")
    step: PositiveFloat | None = Field(None, description="int and float only, without log")
    when: dict[str, Any] = Field(
        default_factory=dict,
        description="searched only if these keys have these values, or one of a list of them",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        kinds = [name for name in ("choice", "int", "float") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"must have exactly one of choice, int, float, got {kinds or 'none'}")
        if self.choice is not None and _repeats(self.choice):
            raise ValueError(f"choice must not repeat a value, got {list(self.choice)}")
        ends = self.int or self.float
        if ends is not None and ends[0] >= ends[1]:
            raise ValueError(f"must go from low to high, got {list(ends)}")
        if self.log and (ends is None or ends[0] <= 0):
            raise ValueError("log must be used with a range above 0")
        if self.step is not None:
            self._check_step()
        return self

    def _check_step(self) -> None:
        ends = self.int or self.float
        if ends is None or self.log:
            raise ValueError("step must be used with int or float, without log")
        if self.int is not None and self.step != round(self.step or 0):
            raise ValueError(f"step must be whole for int, got {self.step:g}")
        steps = (ends[1] - ends[0]) / (self.step or 1)
        if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
            raise ValueError(
                f"step must lead from {ends[0]:g} to {ends[1]:g} exactly, got {self.step:g}"
            )

    @property
    def is_ordered(self) -> bool:
        """Whether its values are numbers of a range, which has edges."""
        return self.choice is None

    def values(self) -> list[Any] | None:
        """All values, in order; None where they cannot be counted."""
        if self.choice is not None:
            return [*self.choice]
        if self.int is not None:
            low, high = self.int
            return [*range(low, high + 1, round(self.step or 1))]
        assert self.float is not None
        if self.step is None:
            return None
        first, last = self.float
        count = round((last - first) / self.step)
        return [*(first + i * self.step for i in range(count)), last]

    def examples(self) -> list[Any]:
        """Values that together show whether the whole range is legal."""
        every = self.values()
        if every is None:
            return [*(self.float or ())]
        if self.choice is not None or len(every) <= _MAX_CHECKED:
            return every
        return [*every[: _MAX_CHECKED - 1], every[-1]]

    def admits(self, value: object) -> bool:
        """Whether a `when` may name this value: it is one of those that can be counted."""
        return any(is_same(value, each) for each in self.values() or ())


def is_same(first: object, second: object) -> bool:
    """Equality in which True is not 1."""
    return first == second and isinstance(first, bool) == isinstance(second, bool)


def _repeats(values: tuple[Any, ...]) -> bool:
    return any(is_same(one, other) for i, one in enumerate(values) for other in values[:i])
