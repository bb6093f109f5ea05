"""Moves the backward over a sum of losses to each of them: ``total += loss`` gets ``loss.backward()`` in front.

What is summed up is detached then, so that the sum is there for the log, and the backward over the sum is removed.

Targets:
    expression: the loss that is added to the sum.
    call: the call that runs the backward over the sum, a statement of its own.

Options:
    total: the name of the sum in that call. What stands around it, such as ``/ steps``, is done to each loss.
    name: what to call a loss that is no name yet. It must not stand in the file.
"""

from __future__ import annotations

import re

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, expression, option, target
from memlint.fixers._expressions import walk
from memlint.fixers._statements import insertion, removal, whole
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that differentiate each loss, detach it in the sum, and remove the backward over the sum."""
    expect(fix, targets=["expression", "call"], options=["name", "total"])
    loss = expression(fix, "expression")
    backward = target(fix, "call", libcst.Call)
    statement = whole(source, backward)
    if not isinstance(statement, libcst.Expr) or statement.value is not backward:
        raise CannotFix("the backward is part of a larger statement")
    if whole(source, loss) is statement:
        raise CannotFix("the loss stands in the backward itself")
    start, end = source.span(loss)
    if source.has_comment(start, end):
        raise CannotFix("a comment inside the expression would be lost")
    name = source.code(loss) if isinstance(loss, libcst.Name) else _new_name(option(fix, "name"), source)
    call = _call_on(name, backward, option(fix, "total"), source)
    rows = call if isinstance(loss, libcst.Name) else f"{name} = {source.code(loss)}\n{call}"
    return [
        insertion(source, whole(source, loss), rows, after=False),
        source.edit(start, end, f"{name}.detach()"),
        *removal(source, [statement]),
    ]


def _new_name(name: str, source: Source) -> str:
    if re.search(rf"\b{re.escape(name)}\b", source.text):
        raise CannotFix(f"the name {name} is taken")
    return name


def _call_on(name: str, backward: libcst.Call, total: str, source: Source) -> str:
    """The text of ``backward`` with ``name`` in the place of ``total``."""
    named = [node for node in walk(backward) if isinstance(node, libcst.Name) and node.value == total]
    if len(named) != 1:
        raise CannotFix(f"the backward does not name {total} once")
    outer, inner = source.span(backward), source.span(named[0])
    return source.text[outer.start : inner.start] + name + source.text[inner.end : outer.end]
