"""Turns a mentioned function into a call: ``model.eval`` becomes ``model.eval()``.

Targets:
    expression: the function that is to be called.
"""

from __future__ import annotations

from memlint.diagnostics import Edit
from memlint.findings import Fix
from memlint.fixers._asked import expect, expression
from memlint.fixers._expressions import is_primary
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that append ``()``, with parentheses around the function where the call would bind to a part of it."""
    expect(fix, targets=["expression"])
    function = expression(fix, "expression")
    start, end = source.outer_span(function)
    if is_primary(function):
        return [source.edit(end, end, "()")]
    return [source.edit(start, start, "("), source.edit(end, end, ")()")]
