"""Removes an argument from a call: ``loss.backward(retain_graph=True)`` becomes ``loss.backward()``.

An argument that has its rows for itself goes with them and with the comment behind it.

Targets:
    argument: the argument.
"""

from __future__ import annotations

import libcst

from memlint.diagnostics import Edit
from memlint.findings import Fix
from memlint.fixers._asked import expect, target
from memlint.fixers._statements import row_removal
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edit that removes the argument with one of the commas beside it."""
    expect(fix, targets=["argument"])
    argument = target(fix, "argument", libcst.Arg)
    call = source.parent(argument)
    if not isinstance(call, libcst.Call):
        raise ValueError("the argument is in no call")
    return [_removal(source, call, call.args.index(argument))]


def _removal(source: Source, call: libcst.Call, index: int) -> Edit:
    argument = call.args[index]
    start, end = source.span(argument)
    behind = source.span(argument.comma).end if isinstance(argument.comma, libcst.Comma) else end
    if len(call.args) > 1 and _has_its_rows(source, start, behind):
        return row_removal(source, source.place(start).row, source.place(behind).row)
    if len(call.args) == 1:
        opened, closed = source.span(call.whitespace_before_args).start, source.span(call).end - 1
        alone = not source.has_comment(opened, start) and not source.has_comment(end, closed)
        return source.edit(opened, closed, "") if alone else source.edit(start, behind, "")
    if index == 0:
        following = source.span(call.args[1]).start
        return source.edit(start, behind if source.has_comment(end, following) else following, "")
    before = source.span(call.args[index - 1]).end
    return source.edit(start, behind, "") if source.has_comment(before, start) else source.edit(before, end, "")


def _has_its_rows(source: Source, start: int, end: int) -> bool:
    """Whether nothing but space and a comment shares the rows between two offsets."""
    first, last = source.place(start).row, source.place(end).row
    before = source.text[source.row_starts[first - 1] : start]
    after = source.text[end : source.row_end(last)].strip()
    return not before.strip() and (not after or after.startswith("#"))
