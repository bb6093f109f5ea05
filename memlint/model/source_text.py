"""The source text of an expression, for messages and fixes."""

from __future__ import annotations

from typing import TypeVar

import libcst as cst

from memlint.model.paths import dotted_name
from memlint.parsing import complete_around

_Node = TypeVar("_Node", bound=cst.CSTNode)
_MAX_LENGTH = 48


def written(node: cst.CSTNode) -> str:
    """The text of ``node`` as it is laid out in its file, which has to be parsed once more for that.

    For questions about what ``node`` says there is :func:`memlint.bare_trees.spelling`.
    """
    return cst.Module(body=()).code_for_node(laid_out(node))


def laid_out(node: _Node) -> _Node:
    """``node`` as it is laid out in its file, to write it there with changes."""
    complete_around(node)
    return node


def text(node: cst.CSTNode) -> str:
    """The text of ``node`` on one line; of a name without the parentheses that it may have."""
    return dotted_name(node) or " ".join(written(node).split())


def code(node: cst.CSTNode) -> str:
    """The text of ``node`` on one line, shortened in the middle if it is long."""
    whole = text(node)
    if len(whole) <= _MAX_LENGTH:
        return whole
    half = _MAX_LENGTH // 2 - 1
    return f"{whole[:half]}...{whole[-half:]}"
