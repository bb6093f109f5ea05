"""Finds rules and fixers by looking into their folders, so that a new one is a new file and nothing else."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from abc import ABCMeta
from collections.abc import Iterator
from types import ModuleType

from memlint.check.suppression import UnusedNoqa
from memlint.rule import Rule

DOCUMENTATION = "docs/rules"
"""Where the rules' pages stand in the repository."""


@functools.cache
def all_rules() -> tuple[Rule, ...]:
    """One instance of every rule, sorted by code: those in ``rules/``, however deep, and the engine's own."""
    found: dict[str, Rule] = {UnusedNoqa.code: UnusedNoqa()}
    for module in _modules(importlib.import_module("memlint.rules")):
        for rule in _rules_defined_in(module):
            if rule.code in found:
                raise TypeError(f"{rule.code} is both {type(found[rule.code]).__name__} and {type(rule).__name__}")
            found[rule.code] = rule
    return tuple(found[code] for code in sorted(found))


@functools.cache
def fixer(name: str) -> ModuleType:
    """The module ``fixers/<name>.py``. Raises ImportError if there is none."""
    return importlib.import_module(f"memlint.fixers.{name}")


def documentation_url(code: str) -> str:
    """Where the page of a rule is: a path relative to the root of the repository."""
    return f"{DOCUMENTATION}/{code}.md"


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for entry in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(entry.name)


def _rules_defined_in(module: ModuleType) -> Iterator[Rule]:
    for value in vars(module).values():
        # A rule that is imported from elsewhere is found where it is defined.
        # Not isclass(): until Python 3.10 it takes tuple[str, ...] for a class, issubclass() does not.
        is_rule = isinstance(value, ABCMeta) and issubclass(value, Rule) and not inspect.isabstract(value)
        if is_rule and value.__module__ == module.__name__:
            yield value()
