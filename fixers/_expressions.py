"""What several fixers need to know about expressions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import libcst

_PRIMARIES = (
    libcst.Name,
    libcst.Attribute,
    libcst.Call,
    libcst.Subscript,
    libcst.BaseList,
    libcst.BaseSet,
    libcst.BaseDict,
    libcst.SimpleString,
    libcst.FormattedString,
    libcst.Float,
    libcst.Imaginary,
    libcst.Ellipsis,
)


def is_primary(node: libcst.BaseExpression) -> bool:
    """Whether ``.name``, ``(...)`` or ``[...]`` can follow ``node`` as it is written."""
    return bool(node.lpar) or isinstance(node, _PRIMARIES)


@cache
def parsed(code: str) -> libcst.BaseExpression:
    """The expression that ``code`` is. Raises ValueError if it is none: an error of the rule that gave it."""
    try:
        return libcst.parse_expression(code)
    except libcst.ParserSyntaxError as error:
        raise ValueError(f"{code!r} is not an expression") from error


def walk(node: libcst.CSTNode) -> Iterator[libcst.CSTNode]:
    """``node`` and all nodes in it. libcst has a search of its own, the import of which takes longer than a check."""
    yield node
    for child in node.children:
        yield from walk(child)


def dotted_names(node: libcst.CSTNode) -> set[str]:
    """The longest dotted names in ``node``: ``self.outputs.clear`` in ``self.outputs.clear()``."""
    found = [each for each in walk(node) if isinstance(each, (libcst.Name, libcst.Attribute))]
    inner: set[libcst.CSTNode] = {attribute.value for attribute in found if isinstance(attribute, libcst.Attribute)}
    inner |= {attribute.attr for attribute in found if isinstance(attribute, libcst.Attribute)}
    names = (_dotted(each) for each in found if each not in inner)
    return {name for name in names if name}


def _dotted(node: libcst.CSTNode) -> str | None:
    match node:
        case libcst.Name(value=name):
            return name
        case libcst.Attribute(value=value, attr=libcst.Name(value=name)):
            head = _dotted(value)
            return f"{head}.{name}" if head else None
    return None


def holds_yield(node: libcst.CSTNode) -> bool:
    """Whether the function that ``node`` is in hands out control in the middle of ``node``."""
    if isinstance(node, (libcst.FunctionDef, libcst.Lambda)):
        return False
    return isinstance(node, libcst.Yield) or any(holds_yield(child) for child in node.children)
