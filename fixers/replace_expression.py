"""Puts another expression in the place of one: ``torch.cuda.amp.autocast()`` becomes ``torch.amp.autocast("cuda")``.

Targets:
    expression: the expression to replace. Parentheses of its own stay.

Options:
    code: the new expression.
    import: what the new expression needs imported, such as ``torch`` or ``torch.nn.functional as F``.
"""

from __future__ import annotations

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, expression, option
from memlint.fixers._expressions import is_primary, parsed
from memlint.fixers._imports import import_edits
from memlint.source import Source

_SEPARATED = (
    libcst.Arg,
    libcst.Assign,
    libcst.AnnAssign,
    libcst.AugAssign,
    libcst.BaseElement,
    libcst.BaseDictElement,
    libcst.Expr,
    libcst.Index,
    libcst.Return,
)
"""Where an expression stands between separators, so that operators around it cannot take a part of it."""


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edit that replaces the expression, with parentheses where the text around it would bind to a part of it.

    An expression with a comment in it is left alone, since the comment would be lost.
    """
    expect(fix, targets=["expression"], options=["code", "import"])
    old = expression(fix, "expression")
    code = option(fix, "code")
    start, end = source.span(old)
    if source.has_comment(start, end):
        raise CannotFix("a comment inside the expression would be lost")
    stands_alone = bool(old.lpar) or _fits(parsed(code), source.parent(old))
    replacement = source.edit(start, end, code if stands_alone else f"({code})")
    return [*import_edits(fix, source, old), replacement]


def _fits(new: libcst.BaseExpression, parent: libcst.CSTNode | None) -> bool:
    return is_primary(new) or (isinstance(parent, _SEPARATED) and not isinstance(new, libcst.Tuple))
