"""Puts statements under a context manager: ``out = model(x)`` under ``with torch.no_grad():``.

Comments between the statements are indented with them, those above the first stay above ``with``; strings over several
rows keep their text. Statements that share a row get rows of their own. A block that yields is left alone: the caller
would run with the context entered.

Targets:
    statement: the statements to wrap, or any node in each: one, or several that follow each other in one block.

Options:
    code: the context expression, such as ``torch.no_grad()``.
    import: what the context expression needs imported, such as ``torch``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, nodes, option
from memlint.fixers._imports import import_edits
from memlint.fixers._statements import first_row, indent, indentation_start, siblings, split, whole
from memlint.fixers._with import Rows, free_from_colon, gap_before, indent_below, neighbours, refuse_yield
from memlint.source import Source, Statement


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that insert ``with`` and indent the statements."""
    expect(fix, targets=["statement"], options=["code", "import"])
    wanted = [single for node in nodes(fix, "statement") for single in split(whole(source, node))]
    statements = _consecutive(source, wanted)
    refuse_yield(statements)
    header = f"with {option(fix, 'code')}:"
    return [*import_edits(fix, source, statements[0]), *_wrapping(source, statements, header)]


def _consecutive(source: Source, wanted: Sequence[Statement]) -> Sequence[Statement]:
    """The statements in the order of the text. Raises CannotFix if others stand between them."""
    _, members = siblings(source, wanted[0])
    indices = [members.index(statement) for statement in wanted if statement in members]
    statements = members[min(indices) : max(indices) + 1]
    if len(indices) != len(wanted) or set(statements) != set(wanted):
        raise CannotFix("the statements do not follow each other in one block")
    return statements


def _wrapping(source: Source, statements: Sequence[Statement], header: str) -> Iterator[Edit]:
    first, last = statements[0], statements[-1]
    rows = Rows.of(source, first)
    row = first_row(source, first)
    gap = gap_before(source, first)
    yield from free_from_colon(source, first, rows)
    if gap:
        yield source.edit(*gap, rows.outer + header + rows.inner)
    else:
        start = indentation_start(source, row)
        yield source.edit(start, start, rows.indentation + header + rows.newline)
        yield from indent(source, row, row, rows.indentation, rows.unit)
    yield from indent_below(source, row, statements, rows)
    _, after = neighbours(source, last)
    if after is not None:
        yield source.edit(source.span(last).end, source.span(after).start, rows.outer)
