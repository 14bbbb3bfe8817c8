"""YAML files as mappings, with the scalars of YAML 1.2's core schema.

PyYAML reads YAML 1.1, where ``off`` is false, ``1e-4`` is text, ``010`` is eight and ``1:30`` is
ninety; it also lets the last of two equal keys win.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from serkd.errors import InputError

_SCALARS = {
    "null": (r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"^[-+]?[0-9]+$", list("-+0123456789")),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
        r"|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars that refuses a repeated key."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own attribute

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: ANN401
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):  # `{{ NAME }}` of a template is one
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be text", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"a key must be given once, {key_node.value} is repeated",
                    key_node.start_mark,
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _construct_int(loader: _Loader, node: Any) -> int:  # noqa: ANN401
    return int(loader.construct_scalar(node), 10)


for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, origin: str) -> Any:  # noqa: ANN401  YAML holds anything
    """Parse YAML; `origin` names the text in the message when it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise InputError(f"{origin}: must be YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: no such file, not UTF-8, not YAML, a repeated key, or not a mapping.
    """
    if not path.is_file():
        raise InputError(f"{path}: must be a YAML file, but there is none")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: must be UTF-8 text: {error}") from error
    data = parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold keys and values, got a {type(data).__name__}")
    return data


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes text which YAML 1.2 would read as something else."""


for _name, (_pattern, _first) in _SCALARS.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)


def format_yaml(data: dict[str, Any]) -> str:
    """YAML that both versions read alike; `parse_yaml` gives `data` back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def format_value(value: object) -> str:
    """One line of YAML that `parse_yaml` reads as this value: what follows ``--set key=``."""
    if isinstance(value, str):
        shown = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, width=float("inf"))
        if shown == f"{value}\n...\n":  # which needs no quotes
            return value
    return json.dumps(value, ensure_ascii=False)
