"""What the trees of Python's own parser say by themselves, for questions about whole files that nobody lowers."""

from __future__ import annotations

import ast
from collections.abc import Iterable


def last_name(node: ast.expr) -> str:
    """``f`` of ``f``, ``m.f`` and ``a.b.f``; nothing of anything else."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def imported_names(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """The qualified names that imports bind, by what they bind them to; relative ones without their package."""
    bound: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for each in node.names:
                # ``import a.b`` binds ``a``.
                name = each.name if each.asname else each.name.partition(".")[0]
                bound[each.asname or name] = name
        elif isinstance(node, ast.ImportFrom):
            bound.update({each.asname or each.name: f"{node.module or ''}.{each.name}" for each in node.names})
    return bound
