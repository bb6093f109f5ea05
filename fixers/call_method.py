"""Calls a method on expressions: ``loss`` becomes ``loss.detach()``, ``a + b`` becomes ``(a + b).detach()``.

Targets:
    expression: the expressions to call it on, one or several. An argument stands for its value. A starred one cannot
        be fixed: which value the method should be called on is not known.

Options:
    method: the name of the method.
    arguments: the text between the parentheses of the call; none by default.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, nodes, option
from memlint.fixers._expressions import is_primary
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that append the call to each expression, with parentheses where it would bind to a part of it."""
    expect(fix, targets=["expression"], options=["method", "arguments"])
    call = f".{option(fix, 'method')}({option(fix, 'arguments', '')})"
    expressions = {_expression(node) for node in nodes(fix, "expression")}
    # Of expressions that start or end together, the outer one has the outer parenthesis.
    inner_last = sorted(expressions, key=lambda node: (source.span(node).start, -source.span(node).end))
    opened = [edit for node in inner_last for edit in _opening(node, source)]
    closed = [edit for node in reversed(inner_last) for edit in _closing(node, call, source)]
    return [*opened, *closed]


def _expression(node: libcst.CSTNode) -> libcst.BaseExpression:
    match node:
        case libcst.StarredElement() | libcst.Arg(star="*" | "**"):
            raise CannotFix("a starred expression has no single value")
        case libcst.Arg(value=value) | libcst.Element(value=value):
            return value
        case libcst.BaseExpression():
            return node
    raise ValueError(f"a {type(node).__name__} is no expression")


def _opening(node: libcst.BaseExpression, source: Source) -> Iterator[Edit]:
    if not is_primary(node):
        start = source.span(node).start
        yield source.edit(start, start, "(")


def _closing(node: libcst.BaseExpression, call: str, source: Source) -> Iterator[Edit]:
    end = source.outer_span(node).end
    yield source.edit(end, end, call if is_primary(node) else f"){call}")
