"""Inserts a statement before or after another: ``optimizer.zero_grad()`` after ``optimizer.step()``.

Targets:
    statement: the statement beside which to insert, or any node in it.

Options:
    code: the text of the new statement, without indentation; rows of a block are indented relative to its first.
    where: ``after`` (the default) or ``before``. Before means above the comments directly above the statement.
    import: what the new statement needs imported, such as ``torch`` or ``torch.nn.functional as F``.
"""

from __future__ import annotations

from memlint.diagnostics import Edit
from memlint.findings import Fix
from memlint.fixers._asked import choice, expect, node, option
from memlint.fixers._imports import import_edits
from memlint.fixers._statements import insertion, whole
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edit that inserts the statement in the same block, on a row of its own where the other one has that."""
    expect(fix, targets=["statement"], options=["code", "where", "import"])
    anchor = whole(source, node(fix, "statement"))
    after = choice(fix, "where", ("after", "before")) == "after"
    return [*import_edits(fix, source, anchor), insertion(source, anchor, option(fix, "code"), after=after)]
