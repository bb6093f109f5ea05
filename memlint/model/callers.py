"""In which files of a project a function may be called: what their text shows, before any of them is parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from memlint.model.dependencies import CallersSought
from memlint.model.mentions import Mentions
from memlint.model.outline import Outline
from memlint.model.scopes import Function

MAX_FILES = 6
"""Files that are parsed in search of the callers of one function, besides its own."""
FEW_FILES = 2
"""Files beside a function's own that are read in search of its callers wherever it is met."""


class CallerFiles(NamedTuple):
    """Files to read in search of callers, the function's own first."""

    paths: tuple[Path, ...]
    complete: bool
    """Whether these are all; if not, they are those that are most likely to call it."""


def callers_sought(function: Function) -> CallersSought | None:
    """What has to be known of ``function`` to find its callers; None if only its own file can call it by its name."""
    owner = function.owner
    if owner is None and (function.parent is None or function.parent.parent is not None):
        # A lambda, or a function within another.
        return None
    module = function.module
    return CallersSought(module.path, module.name, owner.name if owner is not None else None, function.name)


def caller_files(sought: CallersSought, mentions: Mentions) -> CallerFiles:
    """The files in which a function may be called.

    Where they are too many to read, those count that know its class, and for a function those of its folder. The
    answer depends on the files of the project alone, not on what has been read before.
    """
    own, owner = sought.own, sought.owner
    word, calls = call(sought.module, owner, sought.name)
    found = mentions.of(word)
    if found is None:
        found = mentions.of(owner) if owner is not None else ()
        near = tuple(_others(found or (), own, lambda path: calls(mentions.outline(path))))
        return CallerFiles((own, *near[:MAX_FILES]), complete=False)
    others = tuple(_others(found, own, lambda path: calls(mentions.outline(path))))
    if len(others) <= MAX_FILES:
        return CallerFiles((own, *others), complete=True)
    likely = [path for path in others if (owner in mentions.outline(path).used if owner else path.parent == own.parent)]
    return CallerFiles((own, *likely[:MAX_FILES]), complete=False)


def _others(paths: tuple[Path, ...], own: Path, may_call: Callable[[Path], bool]) -> Iterator[Path]:
    return (path for path in paths if path != own and may_call(path))


def call(module: str, owner: str | None, name: str) -> tuple[str, Callable[[Outline], bool]]:
    """The word that stands in each file that calls a function, and what else its outline must show."""
    if owner is None:
        parts = frozenset(module.split("."))
        return (
            name,
            lambda file: (
                (name in file.called and (name in file.imported or file.imports_all))
                or (name in file.called_on and not parts.isdisjoint(file.imported))
            ),
        )
    if name in {"__call__", "forward"}:
        # An instance is called by whatever name it goes; its class is what is named.
        return owner, lambda file: owner in file.used
    if name == "__init__":
        # Classes that are derived from it are made beside their definition as a rule.
        return owner, lambda file: owner in file.called | file.called_on | file.initialized
    return name, lambda file: name in file.called_on
