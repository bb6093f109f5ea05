"""Gives bare trees their layout, and does without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache, lru_cache
from typing import Any, TypeGuard

import libcst as cst

from memlint.bare_trees.making import MAKERS, NO_LAYOUT, PARTS, BareTree, Node


class LayoutError(Exception):
    """A text that libcst reads in another way than Python does."""


def lay_out(bare: BareTree, full: cst.Module) -> None:
    """Gives each node of ``bare`` the layout of its counterpart in ``full``, which is libcst's tree of the same text.

    Raises :class:`LayoutError` if the two do not say the same.
    """
    lay_out_part(bare, full)
    object.__setattr__(bare, "is_complete", True)


def lay_out_part(bare: Node, full: Node) -> None:
    """Does for a part of a bare tree what :func:`lay_out` does for all of it."""
    pending: list[tuple[Node, Node]] = [(bare, full)]
    for node, counterpart in pending:
        if type(node) is not type(counterpart) and not isinstance(node, BareTree):
            raise LayoutError(f"a {type(counterpart).__name__} was taken for a {type(node).__name__}")
        parts, layout = _fields(type(node))
        for name in layout:
            object.__setattr__(node, name, getattr(counterpart, name))
        for name in parts:
            wanted = getattr(counterpart, name)
            inner, counterparts = _nodes(getattr(node, name)), _nodes(wanted)
            if len(inner) != len(counterparts):
                raise LayoutError(f"a {type(node).__name__} has {len(counterparts)} {name}, not {len(inner)}")
            if inner:
                pending.extend(zip(inner, counterparts, strict=True))
            else:
                object.__setattr__(node, name, wanted)


@cache
def _fields(kind: type[Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the fields of ``kind`` that hold more than layout, and those of the others."""
    parts = PARTS.get(kind, ())
    return parts, tuple(field.name for field in fields(kind) if field.name not in parts)


_OPERATORS = (cst.BaseUnaryOp, cst.BaseBinaryOp, cst.BaseBooleanOp, cst.BaseCompOp, cst.BaseAugOp)


def spelling(node: Node) -> str:
    """What ``node`` says, however it is laid out: its code without parentheses, with default whitespace."""
    return cst.Module(()).code_for_node(_without_layout(node))


def _without_layout(node: Any) -> Any:
    make = MAKERS.get(type(node))
    if make is None:
        return type(node)() if isinstance(node, _OPERATORS) else node
    return make(*(_each_without_layout(getattr(node, part)) for part in PARTS[type(node)]))


def _each_without_layout(value: Any) -> Any:
    return list(map(_without_layout, value)) if isinstance(value, (list, tuple)) else _without_layout(value)


def is_bare(node: Node) -> bool:
    """Whether ``node`` has no layout yet."""
    return any(getattr(each, name) is NO_LAYOUT for each in _walk(node) for name in _fields(type(each))[1])


def is_incomplete(tree: cst.Module) -> TypeGuard[BareTree]:
    """Whether parts of ``tree`` may have no layout yet."""
    return isinstance(tree, BareTree) and not tree.is_complete


def is_part(node: Node) -> bool:
    """Whether ``node`` is of a kind that is more than layout."""
    return type(node) in PARTS


# Whoever shows one node of a file is likely to show more.
@lru_cache(maxsize=2)
def parents(tree: Node) -> Mapping[int, Node | None]:
    """For the nodes of ``tree`` that are more than layout, by their numbers: what each is a part of."""
    found: dict[int, Node | None] = {id(tree): None}
    for node in _walk(tree):
        found.update((id(child), node) for child in _children(node))
    return found


def outer_function(tree: BareTree, above: Mapping[int, Node | None], node: Node) -> cst.FunctionDef | None:
    """The function that ``node`` stands in, the outermost one; ``above`` are the :func:`parents` of ``tree``."""
    each: Node | None = node
    while each is not None and id(each) not in tree.functions:
        each = above[id(each)]
    return each if isinstance(each, cst.FunctionDef) else None


def _walk(tree: Node) -> Iterator[Node]:
    """``tree`` and the nodes in it that are more than layout."""
    pending = [tree]
    for node in pending:
        yield node
        pending.extend(_children(node))


def _children(node: Node) -> Iterator[Node]:
    for part in _fields(type(node))[0]:
        yield from _nodes(getattr(node, part))


def _nodes(value: object) -> list[Node]:
    found: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    return [each for each in found if type(each) in PARTS]
