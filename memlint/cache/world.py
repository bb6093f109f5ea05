"""The files of a project as a cache has last seen them, and what has become of them since."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlint.check.results import Importing

Status = list[int]
"""Times of the last change of content and of status in ns, size, and number on the disk; empty if not to be trusted."""

_SETTLED = 2_000_000_000
"""Nanoseconds after which a file that is changed again gets another time: no file system counts in longer steps."""


@dataclass
class Seen:
    """A file as it was seen."""

    status: Status | None
    """None if it is not there."""
    digest: str
    """Of its bytes, in hexadecimal; empty if it cannot be read."""
    is_member: bool
    """Whether it is one of the files of the project, in which callers are searched."""


def is_other_now(importing: Importing, names: dict[str, frozenset[str]]) -> bool:
    """Whether imports may mean something else by now; ``names`` are those in the folders that have changed."""
    if any(not os.path.isfile(path) for path in importing.packages):  # noqa: PTH113
        return True
    return any(
        name.rstrip("/") in there or f"{name}.py" in there
        for folder, there in names.items()
        for name in importing.missed.get(folder, ())
    )


@dataclass
class World:
    """Everything that the entries of a cache rest on, as it was when they were right."""

    files: dict[str, Seen] = field(default_factory=dict)
    folders: dict[str, Status | None] = field(default_factory=dict)
    """Folders in which something was looked for."""
    importing: dict[str, Importing] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        """As plain data."""
        importing = {
            folder: [each.packages, {where: sorted(names) for where, names in each.missed.items()}]
            for folder, each in self.importing.items()
        }
        files = {path: [seen.status, seen.digest, seen.is_member] for path, seen in self.files.items()}
        return [files, self.folders, importing]

    @classmethod
    def from_json(cls, kept: list[Any]) -> World:
        """The opposite of :meth:`to_json`. Raises TypeError or ValueError for anything else."""
        files, folders, importing = kept
        return cls(
            {path: Seen(*seen) for path, seen in files.items()},
            dict(folders),
            {
                folder: Importing(packages, {where: set(names) for where, names in missed.items()})
                for folder, (packages, missed) in importing.items()
            },
        )


@dataclass
class Changes:
    """What is another one than a cache has seen."""

    files: set[str] = field(default_factory=set)
    """Files whose content is new, or that are new or gone, whether members or not."""
    members: set[str] = field(default_factory=set)
    """Files in which callers are, or were, searched, and that are new, gone or changed."""
    folders: dict[str, frozenset[str]] = field(default_factory=dict)
    """Folders in which something has come or gone, with the names that are in them now."""
    is_retouched: bool = False
    """Whether anything has another status, be it with the same content."""

    def __bool__(self) -> bool:
        return bool(self.files or self.members or self.folders)


def status_of(path: str) -> Status | None:
    """The status of what is at ``path``; None if there is nothing."""
    try:
        found = os.stat(path)  # noqa: PTH116 - thousands of these are asked for
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]


def settled(status: Status | None, now: int) -> Status | None:
    """``status``, seen at ``now``; empty if the file may change without getting another one."""
    return [] if status and now - max(status[:2]) < _SETTLED else status


def look(before: World, members: Iterable[Path]) -> tuple[World, Changes]:
    """The world as it is now, with ``members`` as the files of the project, and how it differs from ``before``."""
    now = time.time_ns()
    changes = Changes()
    files: dict[str, Seen] = {}
    for path in (*map(str, members), *(path for path, seen in before.files.items() if not seen.is_member)):
        if path not in files:
            files[path] = _looked(path, before.files.get(path), now, changes)
    wanted = set(map(str, members))
    for path, seen in files.items():
        seen.is_member = path in wanted
        old = before.files.get(path)
        if seen.is_member != (old is not None and old.is_member) or (seen.is_member and path in changes.files):
            changes.members.add(path)
    for path, seen in before.files.items():
        if path not in files:
            # It is no member any more, but imports may still lead to it.
            files[path] = _looked(path, seen, now, changes)
            files[path].is_member = False
            changes.members.add(path)
    folders = {path: _looked_into(path, status, now, changes) for path, status in before.folders.items()}
    return World(files, folders, before.importing), changes


def _looked(path: str, old: Seen | None, now: int, changes: Changes) -> Seen:
    """The file at ``path`` now; it is read only if its status has changed."""
    status = status_of(path)
    if old is not None and status == old.status:
        return Seen(old.status, old.digest, old.is_member)
    changes.is_retouched = True
    digest = digest_of(read(path))
    if old is None or digest != old.digest:
        changes.files.add(path)
    return Seen(settled(status, now), digest, is_member=False)


def _looked_into(path: str, old: Status | None, now: int, changes: Changes) -> Status | None:
    """The status of the folder at ``path`` now; it is listed only if that has changed."""
    status = status_of(path)
    if status == old:
        return old
    changes.is_retouched = True
    changes.folders[path] = names_in(path)
    return settled(status, now)


def names_in(folder: str) -> frozenset[str]:
    """The names of what is in ``folder``; nothing if it cannot be read."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return frozenset()


def read(path: str) -> bytes | None:
    """The bytes of a file; None if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def digest_of(data: bytes | None) -> str:
    """Tells contents apart; empty for what cannot be read."""
    if data is None:
        return ""
    from memlint.digests import digest

    return digest(data).hex()
