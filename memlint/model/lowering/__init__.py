"""From a libcst function body to the value graph of :mod:`memlint.model.values`.

One walk in evaluation order, no visitor: each node type has one method, and only fields that carry meaning are
followed. What a name is bound to is kept in a chain of environments, one for each branch and loop that is open.
"""

from __future__ import annotations

from memlint.model.lowering.statements import Statements
from memlint.model.scopes import Function


def lower(function: Function) -> None:
    """Fills ``function`` with the values, stores, calls, loops and exits of its body."""
    Statements(function).run()
