"""Removes statements: ``torch.cuda.empty_cache()`` in a training step.

A block that would be empty holds ``pass`` instead. Comments above stay where they are; the comment behind a statement
on its row goes with it.

Targets:
    statement: the statements to remove, one or several, or any node in each.
"""

from __future__ import annotations

from memlint.diagnostics import Edit
from memlint.findings import Fix
from memlint.fixers._asked import expect, nodes
from memlint.fixers._statements import removal, whole
from memlint.source import Source


def edits(fix: Fix, source: Source) -> list[Edit]:
    """The edits that remove the statements, with their rows or with the semicolons that join them to others."""
    expect(fix, targets=["statement"])
    statements = {whole(source, node) for node in nodes(fix, "statement")}
    return list(removal(source, list(statements)))
