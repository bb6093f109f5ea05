"""The source text of an expression, for messages."""

from __future__ import annotations

import libcst as cst

_MAX_LENGTH = 48


def code(node: cst.CSTNode) -> str:
    """The text of ``node`` on one line, shortened in the middle if it is long."""
    text = " ".join(cst.Module(body=()).code_for_node(node).split())
    if len(text) <= _MAX_LENGTH:
        return text
    half = _MAX_LENGTH // 2 - 1
    return f"{text[:half]}...{text[-half:]}"
