"""What type annotations say of the objects that they stand at."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.model.aliases import module_of
from memlint.model.constructors import annotated_kind
from memlint.model.instances import instance_kind
from memlint.model.kinds import Kind, Role
from memlint.model.scopes import Function
from memlint.model.values import ClassValue, External, Value


def annotation_kinds(node: cst.BaseExpression, scope: Function) -> Iterator[Kind]:
    """What an annotation says of the annotated object; ``Optional`` and unions are looked through."""
    if isinstance(node, cst.BinaryOperation):
        yield from annotation_kinds(node.left, scope)
        yield from annotation_kinds(node.right, scope)
        return
    if isinstance(node, cst.Subscript):
        yield from _generic_kinds(node, scope)
        return
    if isinstance(node, cst.SimpleString):
        try:
            node = cst.parse_expression(str(node.evaluated_value))
        except cst.ParserSyntaxError:
            return
        yield from annotation_kinds(node, scope)
        return
    named = _named(node, scope)
    if isinstance(named, ClassValue):
        yield instance_kind(named.target)
    elif isinstance(named, str):
        yield from _external_kinds(named)


def _generic_kinds(node: cst.Subscript, scope: Function) -> Iterator[Kind]:
    outer = _named(node.value, scope)
    inner = [element.slice.value for element in node.slice if isinstance(element.slice, cst.Index)]
    last = outer.rsplit(".", 1)[-1] if isinstance(outer, str) else ""
    if last in {"Optional", "Union", "Annotated"}:
        for part in inner:
            yield from annotation_kinds(part, scope)
    elif last in {"List", "list", "Dict", "dict", "Tuple", "tuple", "Sequence", "Iterable", "Set", "set", "Mapping"}:
        yield Kind(Role.CONTAINER, name=last.lower())
    elif isinstance(outer, ClassValue):
        yield instance_kind(outer.target)
    elif isinstance(outer, str):
        yield from _external_kinds(outer)


def _external_kinds(name: str) -> Iterator[Kind]:
    kind = annotated_kind(name)
    if kind is not None:
        yield kind


def _named(node: cst.BaseExpression, scope: Function) -> ClassValue | str | None:
    """What a dotted name in an annotation stands for, by the bindings of the enclosing scopes."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    if not isinstance(node, cst.Name):
        return None
    bound: list[Value] = []
    current: Function | None = scope
    while current is not None and not bound:
        bound = current.bindings.get(node.value, [])
        current = current.parent
    rest = list(reversed(parts))
    if not bound:
        return ".".join(["builtins", node.value, *rest])
    value = bound[-1]
    if isinstance(value, ClassValue) and not rest:
        return value
    if isinstance(value, External):
        name = ".".join([value.qualified_name, *rest])
        found = module_of(value).project.resolve(module_of(value), name)
        return found if isinstance(found, ClassValue) else name
    return None
