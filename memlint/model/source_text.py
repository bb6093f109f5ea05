"""The source text of an expression, for messages."""

from __future__ import annotations

import libcst as cst

_MAX_LENGTH = 48


def text(node: cst.CSTNode) -> str:
    """The text of ``node`` on one line."""
    return " ".join(cst.Module(body=()).code_for_node(node).split())


def code(node: cst.CSTNode) -> str:
    """The text of ``node`` on one line, shortened in the middle if it is long."""
    whole = text(node)
    if len(whole) <= _MAX_LENGTH:
        return whole
    half = _MAX_LENGTH // 2 - 1
    return f"{whole[:half]}...{whole[-half:]}"
