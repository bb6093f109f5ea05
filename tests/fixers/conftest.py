"""What the fixers' tests share: asking for a fix in a few words, and applying it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Protocol

import libcst
import pytest

from memlint.bare_trees.layout import is_part
from memlint.edits import Replacement, applied, merged
from memlint.findings import Applicability, Fix
from memlint.parsing import read
from memlint.source import Source

KINDS: dict[str, tuple[type[libcst.CSTNode], ...]] = {
    "expression": (libcst.BaseExpression, libcst.StarredElement),
    "statement": (libcst.BaseSmallStatement, libcst.BaseCompoundStatement),
    "anchor": (libcst.BaseSmallStatement, libcst.BaseCompoundStatement),
    "function": (libcst.FunctionDef,),
    "call": (libcst.Call,),
    "argument": (libcst.Arg,),
    "backward": (libcst.FunctionDef,),
    "reads": (libcst.Attribute,),
    "unpacking": (libcst.Assign,),
    "attribute": (libcst.Attribute,),
    "loop": (libcst.For,),
    "step": (libcst.BaseSmallStatement,),
    "clear": (libcst.BaseSmallStatement,),
    "batch": (libcst.Integer,),
}


class Repair(Protocol):
    def __call__(self, before: str, targets: Mapping[str, str | tuple[str, ...]], **options: str) -> str: ...


def located(source: Source, kind: str, code: str) -> libcst.CSTNode:
    """The first of the largest nodes of this kind whose text is, or for a function begins with, ``code``."""
    fitting = (node for node in walk(source.tree) if isinstance(node, KINDS[kind]))
    for node in fitting:
        text = source.code(node)
        if text == code or (isinstance(node, libcst.BaseCompoundStatement) and text.startswith(code)):
            return node
    raise AssertionError(f"{code!r} is no {kind} of the program")


def walk(node: libcst.CSTNode) -> Iterator[libcst.CSTNode]:
    yield node
    for child in node.children:
        yield from walk(child)


def in_bare_tree(source: Source, targets: Mapping[str, libcst.CSTNode]) -> tuple[Source, dict[str, libcst.CSTNode]]:
    """The same text and targets as a check has them: without layout, but for what the targets themselves need."""
    bare = Source(source.text)
    bare.attach(read(source.text))
    counterparts = {id(full): each for full, each in zip(_parts(source.tree), _parts(bare.tree), strict=True)}
    found = {name: counterparts[id(target)] for name, target in targets.items()}
    for target in found.values():
        bare.span(target)
    return bare, found


def _parts(tree: libcst.Module) -> list[libcst.CSTNode]:
    return [node for node in walk(tree) if is_part(node) and node is not tree]


def repaired(fixer: str, before: str, targets: Mapping[str, str | tuple[str, ...]], **options: str) -> str:
    """The text after the edits of a fixer; targets are given by their text, ``import_`` stands for ``import``."""
    source = Source(before)
    source.attach(libcst.parse_module(before))
    nodes = {
        kind: tuple(located(source, kind, code) for code in ([codes] if isinstance(codes, str) else codes))
        for kind, codes in targets.items()
    }
    texts = {name.rstrip("_"): text for name, text in options.items()}
    fix = Fix(fixer, "message", Applicability.SAFE, nodes, texts)
    edits = merged(importlib.import_module(f"memlint.fixers.{fixer}").edits(fix, source))
    after = applied(
        before, [Replacement(source.offset(e.location), source.offset(e.end_location), e.content) for e in edits]
    )
    libcst.parse_module(after)
    return after


@pytest.fixture
def repair(request: pytest.FixtureRequest) -> Repair:
    """Applies the fixer that the test module is named after."""
    return partial(repaired, request.module.__name__.rpartition("test_")[2])
