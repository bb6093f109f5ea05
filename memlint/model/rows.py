"""The rows that nodes stand on."""

from __future__ import annotations

from collections.abc import Mapping

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from memlint.model.memo import query
from memlint.model.scopes import Module
from memlint.parsing import complete


def rows(module: Module, node: cst.CSTNode) -> tuple[int, int] | None:
    """The first and the last row of ``node``, counted from 1; None for a node that is not of ``module``.

    For the first node of a module this parses and walks its file: it is for messages, and for what is rarely found.
    """
    return (_rows(module) or {}).get(id(node))


@query(on_cycle=None)
def _rows(module: Module) -> Mapping[int, tuple[int, int]] | None:
    complete(module.tree)
    positions = MetadataWrapper(module.tree, unsafe_skip_copy=True).resolve(PositionProvider)
    return {id(node): (where.start.line, where.end.line) for node, where in positions.items()}
