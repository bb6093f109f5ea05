"""Decorates a function: ``@torch.no_grad()``.

The decorator goes directly above ``def``, below those that are there: a class's ``@staticmethod`` or ``@property``
must see the decorated function, not the other way round.

Targets:
    function: the function.

Options:
    code: the decorator, without ``@``.
    import: what the decorator needs imported, such as ``torch``.
"""

from __future__ import annotations

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, option, target
from memlint.fixers._expressions import parsed
from memlint.fixers._imports import import_edits
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edit that inserts the decorator."""
    expect(fix, targets=["function"], options=["code", "import"])
    function = target(fix, "function", libcst.FunctionDef)
    code = option(fix, "code")
    if any(decorator.decorator.deep_equals(parsed(code)) for decorator in function.decorators):
        raise CannotFix("it is decorated so already")
    at = source.row_starts[source.location(function).row - 1]
    decorator = f"{source.indentation(function)}@{code}{source.newline(at)}"
    return [*import_edits(fix, source, function), source.edit(at, at, decorator)]
