"""Takes the last attribute off expressions: ``head.weight.data = table.weight.data`` becomes ``head.weight = ...``.

Targets:
    attribute: the expressions, each an attribute of something, which is what stays.
"""

from __future__ import annotations

import libcst

from memlint.diagnostics import Edit
from memlint.findings import CannotFix, Fix
from memlint.fixers._asked import expect, nodes
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that remove the dot and the name, each from the end of what stays."""
    expect(fix, targets=["attribute"])
    return [_without(source, node) for node in nodes(fix, "attribute")]


def _without(source: Source, node: libcst.CSTNode) -> Edit:
    if not isinstance(node, libcst.Attribute):
        raise CannotFix("it is no attribute of anything")
    start, end = source.span(node.value).end, source.span(node.attr).end
    if source.has_comment(start, end):
        raise CannotFix("a comment inside the expression would be lost")
    return source.edit(start, end, "")
