"""One file of a project, as the rules see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import libcst

from memlint.model.scopes import Class, Function, Module
from memlint.model.values import Call, Store

if TYPE_CHECKING:
    from memlint.model.sizes.reading import Reading


class Program:
    """A parsed file and what it means.

    Rules ask it for functions and calls, and the functions of :mod:`memlint.model` what those mean.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.device: str | None = None
        """The GPU that it is to run on, as the configuration calls it."""
        self.training: Reading | None = None
        """What it trains, kept by :mod:`memlint.model.sizes.capacity`."""

    @property
    def path(self) -> Path:
        """Where the file stands."""
        return self.module.path

    @property
    def tree(self) -> libcst.Module:
        """The syntax tree that every node of a finding belongs to."""
        return self.module.tree

    @property
    def functions(self) -> tuple[Function, ...]:
        """The top level, and every function, method and lambda, outer ones first."""
        return self.module.functions

    @property
    def classes(self) -> Iterator[Class]:
        """The classes of the file."""
        for function in self.functions:
            yield from function.classes

    def calls(self, *names: str) -> Iterator[Call]:
        """The calls whose last component is one of ``names`` (``f(x)``, ``m.f(x)``); all calls without names."""
        if not names:
            for function in self.functions:
                yield from function.calls
        for name in names:
            yield from self.module.calls_by_name.get(name, ())

    def stores(self) -> Iterator[Store]:
        """The assignments of the file."""
        for function in self.functions:
            yield from function.stores
