"""Moves the end of an ``except`` clause behind its ``try`` statement, so that it runs when the exception is gone.

``except E: free(); again()`` becomes ``except E: free(); failed = True`` and, below, ``if failed: again()``. What is
moved is the statement and all that follows it in its block.

Targets:
    statement: the first statement to move, or any node in it. Of a loop, a ``with`` or a ``try`` it stands in, all of
        that is moved.

Options:
    name: the variable that says that the exception was caught; a number is added where it is taken.
"""

from __future__ import annotations

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, node, option
from memlint.fixers._expressions import walk
from memlint.fixers._names import free_name
from memlint.fixers._statements import (
    first_row,
    indent_unit,
    insertion,
    last_row,
    on_own_rows,
    reindented,
    row_insertion,
    siblings,
    start,
    whole,
)
from memlint.source import Source, Statement

_HANDLERS = (libcst.ExceptHandler, libcst.ExceptStarHandler)
_TRIES = (libcst.Try, libcst.TryStar)


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that set the variable before and in the clause, and test it behind the statement."""
    expect(fix, targets=["statement"], options=["name"])
    handler, first = _place(source, whole(source, node(fix, "statement")))
    attempt = source.parent(handler)
    assert isinstance(attempt, _TRIES)
    moved = _rest(source, first)
    _check(source, attempt, handler, moved)
    name = free_name(source, option(fix, "name", "failed"))
    return [
        insertion(source, attempt, f"{name} = False", after=False),
        source.edit(start(source, first), _end(source, moved[-1]), f"{name} = True"),
        row_insertion(source, attempt, [*_guard(source, attempt, name), *_rows(source, attempt, moved)], after=True),
    ]


def _place(source: Source, statement: Statement) -> tuple[libcst.CSTNode, Statement]:
    """The clause that ``statement`` stands in, and the statement from which on it is moved."""
    first = statement
    for ancestor in source.ancestors(statement):
        if isinstance(ancestor, _HANDLERS):
            return ancestor, first
        if isinstance(ancestor, (libcst.FunctionDef, libcst.ClassDef, libcst.Lambda)):
            break
        if isinstance(ancestor, libcst.BaseCompoundStatement) and not isinstance(ancestor, libcst.If):
            first = ancestor
    raise CannotFix("the statement is in no except clause")


def _rest(source: Source, first: Statement) -> tuple[Statement, ...]:
    _, statements = siblings(source, first)
    return statements[statements.index(first) :]


def _check(
    source: Source, attempt: libcst.Try | libcst.TryStar, handler: libcst.CSTNode, moved: tuple[Statement, ...]
) -> None:
    if attempt.finalbody is not None:
        raise CannotFix("the statement would run after `finally`")
    if not all(on_own_rows(source, each) for each in (moved[0], moved[-1], attempt)):
        raise CannotFix("the statement shares its row")
    if any(_follows(source, each, handler) for each in source.ancestors(moved[0])):
        raise CannotFix("what follows in the clause would run before")
    bound = _bound(handler)
    for statement in moved:
        if any(_needs_exception(node, bound) for node in walk(statement)):
            raise CannotFix("the statement needs the exception")


def _needs_exception(node: libcst.CSTNode, bound: str | None) -> bool:
    """Whether ``node`` is a bare ``raise`` or the name ``bound``."""
    match node:
        case libcst.Raise(exc=None):
            return True
        case libcst.Name(value=name):
            return name == bound
    return False


def _bound(handler: libcst.CSTNode) -> str | None:
    """The name that the clause gives to the exception."""
    match handler:
        case libcst.ExceptHandler(name=libcst.AsName(name=libcst.Name(value=name))):
            return name
        case libcst.ExceptStarHandler(name=libcst.AsName(name=libcst.Name(value=name))):
            return name
    return None


def _follows(source: Source, statement: libcst.CSTNode, handler: libcst.CSTNode) -> bool:
    """Whether an ``if`` around the statement, within the clause, has statements behind it."""
    inside = any(ancestor is handler for ancestor in source.ancestors(statement))
    if not inside or not isinstance(statement, libcst.If) or isinstance(source.parent(statement), libcst.If):
        return False
    return siblings(source, statement)[1][-1] is not statement


def _end(source: Source, statement: Statement) -> int:
    return source.row_end(last_row(source, statement))


def _guard(source: Source, attempt: Statement, name: str) -> list[str]:
    return [f"{source.indentation(attempt)}if {name}:"]


def _rows(source: Source, attempt: Statement, moved: tuple[Statement, ...]) -> list[str]:
    first = first_row(source, moved[0])
    inner = source.indentation(attempt) + indent_unit(source)
    return reindented(source, first, last_row(source, moved[-1]), source.indentation(moved[0]), inner)
