"""Inserts a statement at the end of a function: ``self.outputs.clear()`` in ``on_validation_epoch_end``.

It goes above a ``return`` that ends the body, unless that returns what the new statement works on, and takes the place
of a body that is only ``pass`` or ``...``.

Targets:
    function: the function.

Options:
    code: the text of the new statement, without indentation.
    import: what the new statement needs imported, such as ``torch`` or ``torch.nn.functional as F``.
"""

from __future__ import annotations

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, option, target
from memlint.fixers._expressions import dotted_names
from memlint.fixers._imports import import_edits
from memlint.fixers._statements import can_share_a_row, insertion, siblings
from memlint.source import Source, Statement


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edit that inserts the statement at the function's end."""
    expect(fix, targets=["function"], options=["code", "import"])
    function = target(fix, "function", libcst.FunctionDef)
    return [*import_edits(fix, source, function), _insertion(source, function, option(fix, "code"))]


def _insertion(source: Source, function: libcst.FunctionDef, code: str) -> Edit:
    last = _statements(source, function)[-1]
    match last:
        case libcst.Raise():
            raise CannotFix("the function ends by raising")
        case libcst.Return(value=value):
            if value and _share_names(value, code):
                raise CannotFix("the function returns what the new statement would change")
            return insertion(source, last, code, after=False)
        case libcst.Pass() | libcst.Expr(libcst.Ellipsis()) if can_share_a_row(code):
            return source.edit(*source.span(last), code)
    return insertion(source, last, code, after=True)


def _statements(source: Source, function: libcst.FunctionDef) -> tuple[Statement, ...]:
    first = function.body.body[0]
    assert isinstance(first, Statement)
    return siblings(source, first)[1]


def _share_names(value: libcst.BaseExpression, code: str) -> bool:
    """Whether ``value`` reads what ``code`` calls a method of or assigns: the same dotted name, or a part of it."""
    changed = dotted_names(libcst.parse_module(code))
    return any(
        f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
        for one in dotted_names(value)
        for other in changed
    )
