"""What an answer rests on in other files, so that it can be told later whether it still holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class FileRead(NamedTuple):
    """The content of a file, or that it cannot be read."""

    path: Path


class FolderListed(NamedTuple):
    """Which files of a folder match a pattern."""

    folder: Path
    pattern: str


class CallersSought(NamedTuple):
    """Which files of the project may call a function; the owner is the class of a method."""

    own: Path
    module: str
    """The name of its module."""
    owner: str | None
    name: str


class UsersSought(NamedTuple):
    """Which files of the project use a name."""

    name: str


Leaf = FileRead | FolderListed | CallersSought | UsersSought


class Basis:
    """What one answer rests on: leaves, and what the answers rest on that it was made from; None if that is open."""

    __slots__ = ("on",)

    def __init__(self, on: Iterable[Basis | Leaf] | None = None) -> None:
        self.on = None if on is None else tuple(on)


def resting(on: set[Basis | Leaf] | None) -> Basis | Leaf | None:
    """One thing that stands for all of ``on``; None if that is nothing."""
    if not on:
        return None
    return next(iter(on)) if len(on) == 1 else Basis(on)


def leaves(roots: Iterable[Basis | Leaf], below: Callable[[Leaf], Iterable[Basis | Leaf]]) -> Iterator[Leaf]:
    """The leaves of ``roots``, each once; ``below`` says what a leaf itself rests on."""
    left: list[Basis | Leaf] = list(roots)
    seen: set[Basis | Leaf] = set(left)
    while left:
        each = left.pop()
        if isinstance(each, Basis):
            on: Iterable[Basis | Leaf] = each.on or ()
        else:
            yield each
            on = below(each)
        new = [one for one in on if one not in seen]
        seen.update(new)
        left += new


def resting_on(roots: Iterable[Basis | Leaf], paths: Collection[Path]) -> set[Basis | Leaf]:
    """Those of ``roots``, and of what they rest on, that rest on the content of one of the files ``paths``."""
    users: dict[Basis | Leaf, list[Basis]] = {}
    left: list[Basis | Leaf] = list(roots)
    seen: set[Basis | Leaf] = set(left)
    while left:
        each = left.pop()
        for one in (each.on or ()) if isinstance(each, Basis) else ():
            if isinstance(each, Basis):
                users.setdefault(one, []).append(each)
            if one not in seen:
                seen.add(one)
                left.append(one)
    found: set[Basis | Leaf] = set()
    left = [each for each in seen if isinstance(each, FileRead) and each.path in paths]
    while left:
        each = left.pop()
        if each not in found:
            found.add(each)
            left += users.get(each, ())
    return found


class Dependencies(NamedTuple):
    """What the findings of one file rest on besides its own text."""

    files: dict[Path, bytes]
    """Other files, with digests of what was read (:mod:`memlint.digests`); empty for those that cannot be read."""
    listed: dict[FolderListed, tuple[str, ...]]
    """Folders and patterns, with the names of the files that match."""
    calls: tuple[CallersSought, ...]
    names: tuple[str, ...]
    """Names whose users in the project were asked for."""
