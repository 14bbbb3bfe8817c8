"""Constraints as expressions: parsed by Python's grammar, computed by this module alone."""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.Not: operator.not_, ast.USub: operator.neg}
_CALLS: dict[str, Callable[..., Any]] = {"len": len, "max": max, "min": min, "sum": sum, "abs": abs}
_ALLOWED = (
    "dotted keys, numbers, quoted text, true, false, null, lists, + - * / // %, comparisons, in, "
    f"and, or, not, and {', '.join(_CALLS)}"
)
_WORDS = {"true": True, "false": False, "null": None}
_MAX_LENGTH = 1000


@dataclass(frozen=True)
class Expression:
    """A parsed expression and the dotted names in it."""

    text: str
    tree: ast.expr = field(repr=False, compare=False)
    names: tuple[str, ...]

    def compute(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401  whatever it says
        """Its value, given one of every name.

        Raises:
            ValueError: the values cannot be computed with: a text is added to a number, or a
                division by zero.
        """
        try:
            return _compute(self.tree, values)
        except (TypeError, ZeroDivisionError, OverflowError, ValueError) as error:
            said = ", ".join(f"{name} = {values[name]!r}" for name in self.names)
            raise ValueError(f"{self.text!r} cannot be computed with {said}: {error}") from error


def parse_expression(text: str) -> Expression:
    """Parse an expression; nothing in it is run.

    Raises:
        ValueError: it is not one, or has something other than what is allowed.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"must be at most {_MAX_LENGTH} characters, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        names: list[str] = []
        _check(tree, names)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"must be an expression of {_ALLOWED}, got {text!r}") from error
    return Expression(text, tree, tuple(dict.fromkeys(names)))


def _check(node: ast.expr, names: list[str]) -> None:
    if (name := _dotted(node)) is not None:
        if name not in _WORDS:
            names.append(name)
    elif isinstance(node, ast.Call) and _is_known_call(node):
        for argument in node.args:
            _check(argument, names)
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, int | float | str | None):
            raise SyntaxError
    elif _is_known(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                _check(child, names)
    else:
        raise SyntaxError


def _is_known_call(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id in _CALLS and not node.keywords


def _is_known(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in _BINARY
    if isinstance(node, ast.UnaryOp):
        return type(node.op) in _UNARY
    if isinstance(node, ast.Compare):
        return all(type(each) in _COMPARE for each in node.ops)
    return isinstance(node, ast.BoolOp | ast.Tuple | ast.List)


def _dotted(node: ast.expr) -> str | None:
    """`a.b.c` of a name or attribute; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (above := _dotted(node.value)) is not None:
        return f"{above}.{node.attr}"
    return None


def _compute(node: ast.expr, values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if (name := _dotted(node)) is not None:
        return _WORDS[name] if name in _WORDS else values[name]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BoolOp):
        return _compute_bool(node, values)
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_compute(node.operand, values))
    if isinstance(node, ast.Compare):
        return _compute_compare(node, values)
    if isinstance(node, ast.BinOp):
        return _compute_binary(node, values)
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _CALLS[node.func.id](*(_compute(each, values) for each in node.args))
    assert isinstance(node, ast.Tuple | ast.List)
    return [_compute(each, values) for each in node.elts]


def _compute_bool(node: ast.BoolOp, values: Mapping[str, Any]) -> bool:
    parts = (bool(_compute(each, values)) for each in node.values)
    return all(parts) if isinstance(node.op, ast.And) else any(parts)


def _compute_compare(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    left = _compute(node.left, values)
    for operation, right_node in zip(node.ops, node.comparators, strict=True):
        right = _compute(right_node, values)
        if not _COMPARE[type(operation)](left, right):
            return False
        left = right
    return True


def _compute_binary(node: ast.BinOp, values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    left, right = _compute(node.left, values), _compute(node.right, values)
    for value in (left, right):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{value!r} is not a number")
    return _BINARY[type(node.op)](left, right)
