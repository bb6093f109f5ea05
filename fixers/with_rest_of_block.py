"""Enters a context that is only created: ``torch.no_grad()`` becomes ``with torch.no_grad():`` over what follows.

What follows is the rest of the block. If that yields, it is left alone: the caller would run with the context entered.

Targets:
    statement: the expression statement that creates the context, or any node in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, node
from memlint.fixers._statements import whole
from memlint.fixers._with import Rows, following, free_from_colon, gap_before, indent_below, neighbours, refuse_yield
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that turn the statement into ``with`` and indent the rest of its block."""
    expect(fix, targets=["statement"])
    statement = whole(source, node(fix, "statement"))
    if not isinstance(statement, libcst.Expr):
        raise CannotFix("the context is not created by a statement of its own")
    return list(_entering(source, statement))


def _entering(source: Source, statement: libcst.Expr) -> Iterator[Edit]:
    rest = following(source, statement)
    if not rest:
        raise CannotFix("nothing follows in the block")
    refuse_yield(rest)
    rows = Rows.of(source, statement)
    start, end = source.span(statement)
    gap = gap_before(source, statement)
    yield from free_from_colon(source, statement, rows)
    yield source.edit(*gap, f"{rows.outer}with ") if gap else source.edit(start, start, "with ")
    _, after = neighbours(source, statement)
    if after is not None:
        yield source.edit(end, source.span(after).start, f":{rows.inner}")
    else:
        semicolon = statement.semicolon
        behind = source.span(semicolon).end if isinstance(semicolon, libcst.Semicolon) else end
        yield source.edit(end, behind, ":")
    yield from indent_below(source, source.place(end).row, rest, rows)
