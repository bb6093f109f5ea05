"""Room for more files: which modules are let go when too much text is in memory, and how they are taken apart."""

from __future__ import annotations

from pathlib import Path

from memlint.model.scopes import Class, Function, Module
from memlint.model.values import NO_ANSWERS, Branch, Loop, Phi, Value

MAX_CHARACTERS = 6_000_000
"""Text of the modules that are kept between files. A tree with its answers takes up to 90 bytes for each character, and
the files of a package ask of each other: with room for half of them, each is parsed four times."""
_ROOM = 0.3
"""How much of that is made free at a time: finding out which answers go with a module costs time."""


class Modules:
    """The modules in memory by the paths of their files; None stands for a file that cannot be read or parsed."""

    def __init__(self) -> None:
        self._by_path: dict[Path, Module | None] = {}
        self._characters = 0
        """Text of all of them."""

    def get(self, path: Path) -> Module | None:
        """The module of the file at ``path``; None if there is none, or none yet."""
        return self._by_path.get(path)

    def __contains__(self, path: Path) -> bool:
        return path in self._by_path

    def keep(self, path: Path, module: Module | None) -> None:
        """Puts ``module`` in the place of what was known of the file at ``path``."""
        self.drop(path)
        self._by_path[path] = module
        self._characters += len(module.text) if module is not None else 0

    def drop(self, path: Path) -> None:
        """Forgets what is known of the file at ``path``."""
        known = self._by_path.pop(path, None)
        self._characters -= len(known.text) if known is not None else 0

    def clear(self) -> None:
        """Forgets all of them."""
        self._by_path.clear()
        self._characters = 0

    def to_let_go(self, stays: Path) -> list[Module]:
        """Those that have not been used for the longest time, but not that at ``stays``, if all are too large."""
        if self._characters <= MAX_CHARACTERS:
            return []
        known = (module for path, module in self._by_path.items() if module is not None and path != stays)
        found: list[Module] = []
        size = self._characters
        for module in sorted(known, key=lambda module: module.last_use):
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
