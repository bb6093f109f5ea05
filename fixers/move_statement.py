"""Moves a statement: ``optimizer.zero_grad()`` from before the backward pass to after ``optimizer.step()``.

The comments directly above the statement and behind it move along.

Targets:
    statement: the statement to move, or any node in it.
    anchor: the statement beside which it should stand, or any node in it.

Options:
    where: ``after`` the anchor (the default) or ``before`` it.
"""

from __future__ import annotations

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import choice, expect, node
from memlint.fixers._statements import (
    at_row_edge,
    comment_row,
    joining,
    last_row,
    on_own_rows,
    reindented,
    removal,
    row_insertion,
    row_removal,
    siblings,
    whole,
)
from memlint.source import Source, Statement


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that take the statement out and insert it, at the indentation of its new place."""
    expect(fix, targets=["statement", "anchor"], options=["where"])
    statement = whole(source, node(fix, "statement"))
    anchor = whole(source, node(fix, "anchor"))
    if statement is anchor or statement in source.ancestors(anchor):
        raise CannotFix("a statement cannot be moved into itself")
    after = choice(fix, "where", ("after", "before")) == "after"
    if not at_row_edge(source, anchor, after=after):
        start, end = source.span(statement)
        if on_own_rows(source, statement) and source.has_comment(start, source.row_end(source.place(end).row)):
            raise CannotFix("the statement's comment has no room in its new place")
        return [*removal(source, [statement]), joining(source, anchor, source.code(statement), after=after)]
    indentation = source.indentation(anchor)
    if not on_own_rows(source, statement):
        rows = [indentation + source.code(statement)]
        return [*removal(source, [statement]), row_insertion(source, anchor, rows, after=after)]
    first, last = comment_row(source, statement), last_row(source, statement)
    rows = reindented(source, first, last, source.indentation(statement), indentation)
    removed = _removal_with_comments(source, statement, first, last)
    return _apart(source, removed, row_insertion(source, anchor, rows, after=after))


def _removal_with_comments(source: Source, statement: Statement, first: int, last: int) -> Edit:
    block, everything = siblings(source, statement)
    if len(everything) > 1 or isinstance(block, libcst.Module):
        return row_removal(source, first, last)
    start, end = source.row_starts[first - 1], source.row_end(last)
    return source.edit(start, end, f"{source.indentation(statement)}pass")


def _apart(source: Source, removed: Edit, inserted: Edit) -> list[Edit]:
    """The two edits, or one if the new place is among the removed rows: behind a block that the statement ends."""
    if not removed.location < inserted.location < removed.end_location:
        return [removed, inserted]
    content = removed.content + inserted.content
    newline = source.newline(source.offset(removed.location))
    if removed.end_location.column == 1:
        content = content.removeprefix(newline) + newline
    return [Edit(removed.location, removed.end_location, content)]
