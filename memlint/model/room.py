"""Room for more files: which modules are let go when too much text is in memory, and how they are taken apart."""

from __future__ import annotations

from collections.abc import Iterable

from memlint.model.scopes import Class, Function, Module
from memlint.model.values import NO_ANSWERS, Branch, Loop, Phi, Value

MAX_CHARACTERS = 6_000_000
"""Text of the modules that are kept between files. A tree with its answers takes up to 90 bytes for each character, and
the files of a package ask of each other: with room for half of them, each is parsed four times."""
_ROOM = 0.3
"""How much of that is made free at a time: finding out which answers go with a module costs time."""


def to_let_go(modules: Iterable[Module]) -> list[Module]:
    """Those of ``modules`` that have not been used for the longest time, if they are too large together."""
    kept = sorted(modules, key=lambda module: module.last_use)
    size = sum(len(module.text) for module in kept)
    if size <= MAX_CHARACTERS:
        return []
    found: list[Module] = []
    for module in kept:
        if size <= (1 - _ROOM) * MAX_CHARACTERS:
            break
        found.append(module)
        size -= len(module.text)
    return found


def take_apart(module: Module) -> None:
    """Breaks the circles in which the objects of ``module`` hold each other, so that their memory is free at once.

    The garbage collector would have to go through all other modules to find out.
    """
    for function in _functions(module.body):
        _take_apart_parts(function)
        for cls in function.classes:
            _take_apart_class(cls)
        for name in Function.__slots__:
            held = getattr(function, name)
            if isinstance(held, (list, dict)):
                held.clear()
        function.known = NO_ANSWERS
        del function.body
    for name in ("body", "functions", "calls_by_name", "loads"):
        module.__dict__.pop(name, None)
    module.known = NO_ANSWERS


def _functions(body: Function) -> list[Function]:
    """``body`` and the functions in it, as far as they are lowered."""
    found = [body]
    for function in found:
        found.extend(function.functions)
    return found


def _take_apart_class(cls: Class) -> None:
    for held in (cls.bases, cls.decorators, cls.methods, cls.attributes, cls.annotations):
        held.clear()
    cls.__dict__.pop("instance_stores", None)
    cls.known = NO_ANSWERS


def _take_apart_parts(function: Function) -> None:
    """Takes users from values, what loops carry from their heads, and branches from each other."""
    for part in function.parts:
        part.known = NO_ANSWERS
        if isinstance(part, Value):
            part.uses = []
            if isinstance(part, Phi):
                part.inputs = []
        elif isinstance(part, Branch):
            part.siblings = []
        elif isinstance(part, Loop):
            part.phis = {}
            part.element = part.test = None
