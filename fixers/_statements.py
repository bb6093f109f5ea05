"""What several fixers do with statements: find their rows, indent them, put others beside them, take them out.

A statement stands on rows of its own, or shares a row: with statements that a semicolon joins to it, or with the
colon of the compound statement that it is the body of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix
from memlint.source import Source, Statement

Block = libcst.Module | libcst.BaseSuite
_LEADING_SPACE = re.compile(r"[ \t\f]*")
_NEWLINE = re.compile(r"\r\n?|\n")


def on_own_rows(source: Source, statement: Statement) -> bool:
    """Whether no other statement, and no colon before it, shares a row with ``statement``."""
    if isinstance(statement, libcst.BaseCompoundStatement):
        return True
    holder = statement if isinstance(statement, libcst.SimpleStatementLine) else source.parent(statement)
    return isinstance(holder, libcst.SimpleStatementLine) and (holder is statement or len(holder.body) == 1)


def whole(source: Source, node: libcst.CSTNode) -> Statement:
    """The innermost statement that ``node`` is in and that has a block: not an ``elif``, which only has an ``if``."""
    statement = source.statement(node)
    while isinstance(statement, libcst.If) and isinstance(parent := source.parent(statement), libcst.If):
        statement = parent
    return statement


def siblings(source: Source, statement: Statement) -> tuple[Block, tuple[Statement, ...]]:
    """The block that ``statement`` is in and the statements of that block, those that share rows one by one."""
    block = source.parent(statement)
    if isinstance(block, libcst.SimpleStatementLine):
        block = source.parent(block)
    if isinstance(block, libcst.SimpleStatementSuite):
        return block, tuple(block.body)
    if not isinstance(block, (libcst.Module, libcst.IndentedBlock)):
        raise TypeError(f"a {type(statement).__name__} in a {type(block).__name__} is in no block")
    return block, tuple(each for one in block.body if isinstance(one, Statement) for each in split(one))


def split(statement: Statement) -> Sequence[Statement]:
    return statement.body if isinstance(statement, libcst.SimpleStatementLine) else (statement,)


def is_docstring(statement: libcst.CSTNode) -> bool:
    """Whether ``statement`` is nothing but a string."""
    match statement:
        case libcst.Expr(libcst.SimpleString() | libcst.ConcatenatedString()):
            return True
    return False


def start(source: Source, statement: Statement) -> int:
    """The offset of the first character of ``statement``, decorators included."""
    if isinstance(statement, (libcst.FunctionDef, libcst.ClassDef)) and statement.decorators:
        return source.span(statement.decorators[0]).start
    return source.span(statement).start


def first_row(source: Source, statement: Statement) -> int:
    """The row on which ``statement`` starts, decorators included."""
    return source.place(start(source, statement)).row


def last_row(source: Source, statement: Statement) -> int:
    """The last row of ``statement``, with the comments below it that are indented as its body is."""
    row = source.end_location(statement).row
    if isinstance(statement, libcst.BaseCompoundStatement):
        depth = len(source.indentation(statement).expandtabs())
        while _comment_depth(source, row + 1) > depth:
            row += 1
    return row


def comment_row(source: Source, statement: Statement) -> int:
    """The first row of the comments directly above ``statement``, or its own first row.

    Comments that reach up to the top of the file are about the file.
    """
    first = row = first_row(source, statement)
    while row > 1 and _comment_depth(source, row - 1) >= 0:
        row -= 1
    return first if row == 1 else row


def _comment_depth(source: Source, row: int) -> int:
    """How far the comment on ``row`` is indented, in columns; -1 if the row is not just a comment."""
    if row > len(source.row_starts):
        return -1
    text = source.text[source.row_starts[row - 1] : source.row_end(row)].expandtabs()
    return len(text) - len(text.lstrip()) if text.lstrip().startswith("#") else -1


# Indenting


def indent_unit(source: Source) -> str:
    """One level of indentation in this file."""
    # libcst takes the first indented row at its word, form feeds included.
    return source.tree.default_indent.replace("\f", "") or "    "


def indent(source: Source, first: int, last: int, base: str, unit: str) -> Iterator[Edit]:
    """Edits that put ``unit`` behind the indentation ``base`` of rows.

    Empty rows and rows that start inside a string are left alone. Continuations that are indented less than ``base``
    get ``unit`` in front.
    """
    for row in range(first, last + 1):
        start, end = indentation_start(source, row), source.row_end(row)
        if source.text[start:end].strip() and not source.inside_string(row):
            at = start + len(base) if source.text.startswith(base, start) else start
            yield source.edit(at, at, unit)


def indentation_start(source: Source, row: int) -> int:
    """Where the indentation of ``row`` starts: behind a form feed, which sets it back to nothing."""
    start = source.row_starts[row - 1]
    blank = _LEADING_SPACE.match(source.text, start)
    return start + blank.group().rfind("\f") + 1 if blank else start


def reindented(source: Source, first: int, last: int, old: str, new: str) -> list[str]:
    """The texts of rows, moved from the indentation ``old`` to ``new``; rows inside a string stay as they are."""
    rows = []
    for row in range(first, last + 1):
        text = source.text[source.row_starts[row - 1] : source.row_end(row)]
        moves = text.strip() and text.startswith(old) and not source.inside_string(row)
        rows.append(new + text[len(old) :] if moves else text)
    return rows


# Inserting


def insertion(source: Source, anchor: Statement, code: str, *, after: bool) -> Edit:
    """The edit that puts the statements ``code`` before or after ``anchor``, in the same block.

    Before ``anchor`` means above the comments that stand directly above it. Raises
    :class:`~memlint.findings.CannotFix` where ``anchor`` shares a row and ``code`` cannot join it.
    """
    if not at_row_edge(source, anchor, after=after):
        return joining(source, anchor, code, after=after)
    indentation = source.indentation(anchor)
    return row_insertion(source, anchor, [indentation + row if row else row for row in code.split("\n")], after=after)


def at_row_edge(source: Source, anchor: Statement, *, after: bool) -> bool:
    """Whether a row can be inserted directly before or after ``anchor``, without a semicolon or colon in between."""
    if isinstance(anchor, (libcst.BaseCompoundStatement, libcst.SimpleStatementLine)):
        return True
    line = source.parent(anchor)
    return isinstance(line, libcst.SimpleStatementLine) and line.body[-1 if after else 0] is anchor


def row_insertion(source: Source, anchor: Statement, rows: Sequence[str], *, after: bool) -> Edit:
    """The edit that puts ``rows``, indented as they should be, above or below the rows of ``anchor``."""
    row = last_row(source, anchor) if after else comment_row(source, anchor)
    at = source.row_end(row) if after else source.row_starts[row - 1]
    newline = source.newline(at)
    text = newline.join(rows)
    return source.edit(at, at, newline + text if after else text + newline)


def joining(source: Source, anchor: Statement, code: str, *, after: bool) -> Edit:
    """The edit that puts ``code`` on the row of ``anchor``, separated by a semicolon.

    Raises :class:`~memlint.findings.CannotFix` for code that cannot share a row.
    """
    if not can_share_a_row(code):
        raise CannotFix("the statement shares its row, where another cannot be added")
    span = source.span(anchor)
    return source.edit(span.end, span.end, f"; {code}") if after else source.edit(span.start, span.start, f"{code}; ")


@cache
def can_share_a_row(code: str) -> bool:
    """Whether ``code`` is one row of simple statements that ends in no comment."""
    try:
        statement = libcst.parse_statement(code)
    except libcst.ParserSyntaxError:
        return False
    return (
        isinstance(statement, libcst.SimpleStatementLine)
        and len(code.splitlines()) == 1
        and statement.trailing_whitespace.comment is None
    )


# Removing


def removal(source: Source, statements: Sequence[Statement]) -> Iterator[Edit]:
    """Edits that take ``statements`` out, with the comments behind but not those above them.

    A block that would be left empty holds ``pass`` instead.
    """
    for block, members in _by_block(source, statements):
        _, everything = siblings(source, members[0])
        emptied = len(members) == len(everything) and not isinstance(block, libcst.Module)
        if emptied:
            yield source.edit(start(source, members[0]), source.span(members[0]).end, "pass")
        yield from _removal(source, members[emptied:])


def _by_block(source: Source, statements: Sequence[Statement]) -> list[tuple[Block, list[Statement]]]:
    blocks: dict[Block, list[Statement]] = {}
    singles = (single for statement in statements for single in split(statement))
    for statement in sorted(singles, key=lambda single: source.span(single).start):
        block, _ = siblings(source, statement)
        blocks.setdefault(block, []).append(statement)
    return list(blocks.items())


def _removal(source: Source, statements: Sequence[Statement]) -> Iterator[Edit]:
    gone = set(statements)
    for statement in statements:
        holder = source.parent(statement)
        if not isinstance(holder, (libcst.SimpleStatementLine, libcst.SimpleStatementSuite)):
            yield row_removal(source, first_row(source, statement), source.end_location(statement).row)
        elif statement is next(each for each in holder.body if each in gone):
            yield from _removal_from_row(source, holder, gone)


def _removal_from_row(
    source: Source, holder: libcst.SimpleStatementLine | libcst.SimpleStatementSuite, gone: set[Statement]
) -> Iterator[Edit]:
    """Edits that take some of the statements that share a row out of it, or the whole row if none is left."""
    kept = [each for each in holder.body if each not in gone]
    if not kept:
        yield row_removal(source, source.location(holder).row, source.end_location(holder).row)
        return
    for statement, following in zip(holder.body, holder.body[1:], strict=False):
        if statement in gone and source.span(statement).start < source.span(kept[-1]).start:
            yield source.edit(source.span(statement).start, source.span(following).start, "")
    if holder.body[-1] in gone:
        yield source.edit(source.span(kept[-1]).end, source.span(holder.body[-1]).end, "")


def row_removal(source: Source, first: int, last: int) -> Edit:
    """The edit that deletes whole rows. A file that ends without a newline still does so afterwards."""
    at, end = source.row_starts[first - 1], source.row_end(last)
    if newline := _NEWLINE.match(source.text, end):
        return source.edit(at, newline.end(), "")
    return source.edit(source.row_end(first - 1) if first > 1 else 0, end, "")
