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

from memlint.diagnostics import Edit
from memlint.findings import Fix
from memlint.fixers._asked import expect, nodes, option
from memlint.fixers._imports import import_edits
from memlint.fixers._statements import split, whole
from memlint.fixers._with import consecutive, refuse_yield, under_header
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that insert ``with`` and indent the statements."""
    expect(fix, targets=["statement"], options=["code", "import"])
    wanted = [single for node in nodes(fix, "statement") for single in split(whole(source, node))]
    statements = consecutive(source, wanted)
    refuse_yield(statements)
    header = f"with {option(fix, 'code')}:"
    return [*import_edits(fix, source, statements[0]), *under_header(source, statements, header)]
