"""JSON and YAML files that a program reads its settings from: values, each with the row on which it stands."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 18
"""Larger files are data, not settings, and are not read."""
SUFFIXES = frozenset({".json", ".yaml", ".yml"})


@dataclass(frozen=True)
class Entry:
    """One value of a document, of plain types; ``row`` counts from 1, ``members`` are those of a mapping or list."""

    constant: object
    row: int
    members: Mapping[str | int, Entry] = field(default_factory=dict)


def parse_document(path: Path, data: bytes) -> Entry | None:
    """The root of the document at ``path``; None for what is no JSON or YAML, is too large, or has several parts."""
    if path.suffix not in SUFFIXES or len(data) > MAX_BYTES:
        return None
    try:
        text = data.decode("utf-8-sig")
        return _json(text) if path.suffix == ".json" else _yaml(text)
    except (ValueError, SyntaxError, RecursionError):
        return None


def _json(text: str) -> Entry:
    """Reads JSON. It is written like an expression of Python, whose parser knows the rows."""
    root = json.loads(text)
    return _placed(root, ast.parse(text.strip(), mode="eval").body, _skipped_rows(text))


def _skipped_rows(text: str) -> int:
    return text[: len(text) - len(text.lstrip())].count("\n")


def _placed(constant: Any, node: ast.expr, skipped: int) -> Entry:
    members: dict[str | int, Entry] = {}
    if isinstance(node, ast.Dict) and isinstance(constant, dict):
        for key, value in zip(node.keys, node.values, strict=True):
            name = key.value if isinstance(key, ast.Constant) else None
            if isinstance(name, str) and name in constant:
                members[name] = _placed(constant[name], value, skipped)
    elif isinstance(node, ast.List) and isinstance(constant, list):
        members.update((i, _placed(c, n, skipped)) for i, (c, n) in enumerate(zip(constant, node.elts, strict=True)))
    return Entry(constant, node.lineno + skipped, members)


def _yaml(text: str) -> Entry | None:
    """Reads YAML with the library that comes with libcst; what it cannot do without is unknown."""
    library = _yaml_library()
    if library is None:
        return None
    try:
        loader = library.SafeLoader(text)
        node = loader.get_single_node()
        return _constructed(loader, node) if node is not None else None
    except library.YAMLError:
        return None


def _yaml_library() -> Any:
    """PyYAML, which libcst brings along: under another name for Python 3.13."""
    name = next((name for name in ("yaml", "yaml_ft") if find_spec(name) is not None), None)
    return import_module(name) if name is not None else None


def _constructed(loader: Any, node: Any) -> Entry:
    members: dict[str | int, Entry] = {}
    if node.id == "mapping":
        loader.flatten_mapping(node)
        for key, value in node.value:
            name = loader.construct_object(key, deep=True)
            if isinstance(name, (str, int)):
                members[name] = _constructed(loader, value)
        constant: object = {name: member.constant for name, member in members.items()}
    elif node.id == "sequence":
        members.update((index, _constructed(loader, value)) for index, value in enumerate(node.value))
        constant = [member.constant for member in members.values()]
    else:
        constant = loader.construct_object(node, deep=True)
    return Entry(constant, node.start_mark.line + 1, members)
