"""What the fixers that put statements under ``with``, or ``if``, share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix
from memlint.fixers._expressions import holds_yield
from memlint.fixers._statements import first_row, indent, indent_unit, indentation_start, last_row, siblings
from memlint.source import Source, Statement


class Rows(NamedTuple):
    """How the rows of a block start."""

    newline: str
    indentation: str
    unit: str
    """One more level of indentation."""

    @classmethod
    def of(cls, source: Source, statement: Statement) -> Rows:
        """The rows of the block that ``statement`` is in; of those that it would have if it shares the colon's row."""
        unit = indent_unit(source)
        newline = source.newline(source.span(statement).start)
        suite = source.parent(statement)
        if isinstance(suite, libcst.SimpleStatementSuite) and (owner := source.parent(suite)):
            return cls(newline, source.indentation(owner) + unit, unit)
        return cls(newline, source.indentation(statement), unit)

    @property
    def outer(self) -> str:
        """Starts a row of the block."""
        return self.newline + self.indentation

    @property
    def inner(self) -> str:
        """Starts a row one level deeper."""
        return self.outer + self.unit


def refuse_yield(statements: Sequence[Statement]) -> None:
    """Raises CannotFix if one of ``statements`` yields: the caller would run with the context entered."""
    if any(holds_yield(statement) for statement in statements):
        raise CannotFix("a yield in the block would leave the context entered in the caller")


def neighbours(source: Source, statement: Statement) -> tuple[Statement | None, Statement | None]:
    """The statements that share the row of ``statement``, before and after it."""
    holder = source.parent(statement)
    if not isinstance(holder, (libcst.SimpleStatementLine, libcst.SimpleStatementSuite)):
        return None, None
    index = next(index for index, each in enumerate(holder.body) if each is statement)
    before = holder.body[index - 1] if index else None
    return before, holder.body[index + 1] if index + 1 < len(holder.body) else None


def gap_before(source: Source, statement: Statement) -> tuple[int, int] | None:
    """What separates ``statement`` from the colon or statement before it on its row; None if it is the row's first."""
    before, _ = neighbours(source, statement)
    if before is not None:
        return source.span(before).end, source.span(statement).start
    suite = source.parent(statement)
    if isinstance(suite, libcst.SimpleStatementSuite):
        return source.span(suite.leading_whitespace).start, source.span(statement).start
    return None


def free_from_colon(source: Source, statement: Statement, rows: Rows) -> Iterator[Edit]:
    """The edit that moves the first statement behind a colon to the next row, if that is not ``statement`` itself."""
    suite = source.parent(statement)
    if isinstance(suite, libcst.SimpleStatementSuite) and suite.body[0] is not statement:
        yield source.edit(source.span(suite.leading_whitespace).start, source.span(suite.body[0]).start, rows.outer)


def indent_below(source: Source, row: int, statements: Sequence[Statement], rows: Rows) -> Iterator[Edit]:
    """Edits that indent the rows below ``row`` up to the end of ``statements``."""
    base = "" if isinstance(source.parent(statements[-1]), libcst.SimpleStatementSuite) else rows.indentation
    return indent(source, row + 1, last_row(source, statements[-1]), base, rows.unit)


def following(source: Source, statement: Statement) -> tuple[Statement, ...]:
    """The statements behind ``statement`` in its block."""
    _, members = siblings(source, statement)
    return members[members.index(statement) + 1 :]


def consecutive(source: Source, wanted: Sequence[Statement]) -> Sequence[Statement]:
    """The statements in the order of the text. Raises CannotFix if others stand between them."""
    _, members = siblings(source, wanted[0])
    indices = [members.index(statement) for statement in wanted if statement in members]
    statements = members[min(indices) : max(indices) + 1]
    if len(indices) != len(wanted) or set(statements) != set(wanted):
        raise CannotFix("the statements do not follow each other in one block")
    return statements


def under_header(source: Source, statements: Sequence[Statement], header: str) -> Iterator[Edit]:
    """The edits that put ``statements``, which follow each other, under a row such as ``with torch.no_grad():``."""
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
