"""YAML files as mappings, with the numbers of YAML 1.2."""

import re
from pathlib import Path
from typing import Any

import yaml

from serkd.errors import InputError


class _Yaml12Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-4`` as the number it is (YAML 1.2), not as text (YAML 1.1)."""


_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?([eE][-+]?\d+)$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, origin: str) -> Any:  # noqa: ANN401  YAML holds anything
    """Parse YAML; `origin` names the text in the message when it is not YAML."""
    try:
        return yaml.load(text, Loader=_Yaml12Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{origin}: must be YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    if not path.is_file():
        raise InputError(f"{path}: must be a YAML file, but there is none")
    data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold keys and values, got a {type(data).__name__}")
    return data
