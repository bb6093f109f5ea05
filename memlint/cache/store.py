"""The cache of one project on the disk: an SQLite file that may be locked, broken or outdated at any time."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memlint.cache.encoding import packed, unpacked

_SCHEMA = """
CREATE TABLE state (name TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE entry (
    path TEXT NOT NULL, settings INTEGER NOT NULL, kind TEXT NOT NULL, result BLOB, basis BLOB, run INTEGER NOT NULL,
    PRIMARY KEY (path, settings, kind)
);
CREATE TABLE content (path TEXT PRIMARY KEY, data BLOB NOT NULL);
"""
_DROP_OLD = """
WITH aged AS (SELECT rowid AS id, row_number() OVER (PARTITION BY path ORDER BY run DESC) AS age FROM entry)
DELETE FROM entry WHERE rowid IN (SELECT id FROM aged WHERE age > ?)
"""
_MAX_SETTINGS = 6
"""Results that are kept for one file, each with other settings."""
_PATIENCE = 2.0
"""Seconds to wait for another process that writes."""
_IGNORE = "# Made by memlint.\n*\n"
_TAG = """\
Signature: 8a477f597d28d172789f06886806bc55
# This folder is a cache of memlint; see https://bford.info/cachedir/
"""

Entry = tuple[str, int, str]
"""What an entry is kept under: the path, the number of the settings, and the kind of check."""

UNUSABLE = (sqlite3.Error, OSError, zlib.error, ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What can go wrong with a file that others may have written, removed or damaged."""


def is_ours(directory: Path) -> bool:
    """Whether memlint has made ``directory`` for its cache."""
    tag = directory / "CACHEDIR.TAG"
    return tag.is_file() and tag.read_text(encoding="utf-8", errors="replace") == _TAG


class Store:
    """The file, opened when it is first needed. Each method raises one of :data:`UNUSABLE` if it cannot do its work."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._version = ""
        """Of the content as it was read: whoever writes gives it another one."""

    @contextmanager
    def _opened(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection within a transaction, which is kept only if nothing goes wrong."""
        if not write and not self.file.exists():
            raise FileNotFoundError(self.file)
        connection = sqlite3.connect(self.file, timeout=_PATIENCE, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()

    def read(self, names: Iterable[str]) -> dict[str, Any]:
        """The parts of the state that are called ``names``, as far as they are there."""
        with self._opened() as connection:
            return self._state(connection, names)

    def _state(self, connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, Any]:
        wanted = ("version", *names)
        marks = ", ".join("?" * len(wanted))
        rows = dict(connection.execute(f"SELECT name, data FROM state WHERE name IN ({marks})", wanted))
        self._version = str(unpacked(rows.pop("version")))
        return {name: unpacked(data) for name, data in rows.items()}

    def results(self, settings: Iterable[int]) -> dict[Entry, bytes | None]:
        """The packed results of all entries with one of the ``settings``."""
        numbers = ", ".join(str(int(number)) for number in settings)
        with self._opened() as connection:
            rows = connection.execute(f"SELECT path, settings, kind, result FROM entry WHERE settings IN ({numbers})")
            return {(path, number, kind): result for path, number, kind, result in rows}

    def bases(self) -> dict[Entry, bytes | None]:
        """The packed bases of all entries."""
        with self._opened() as connection:
            rows = connection.execute("SELECT path, settings, kind, basis FROM entry")
            return {(path, number, kind): basis for path, number, kind, basis in rows}

    def contents(self, paths: Iterable[str]) -> dict[str, bytes]:
        """What files held when the entries were right."""
        with self._opened() as connection:
            found = {}
            for path in paths:
                row = connection.execute("SELECT data FROM content WHERE path = ?", (path,)).fetchone()
                if row is not None:
                    found[path] = zlib.decompress(row[0])
            return found

    def write(
        self,
        state: Mapping[str, Any],
        stale: Iterable[Entry],
        entries: Mapping[Entry, tuple[bytes | None, bytes | None]],
        contents: Mapping[str, bytes | None],
        *,
        anew: bool,
    ) -> None:
        """Replaces parts of the state, takes out and puts in entries and contents: all or nothing.

        Nothing if somebody else has written since the state was read. With ``anew``, what was there is dropped.
        """
        self.prepare()
        try:
            self._write(state, stale, entries, contents, anew)
        except sqlite3.OperationalError:
            # Locked, or the disk is full: nothing is wrong with the file.
            raise
        except sqlite3.DatabaseError:
            self.file.unlink()
            self._version = ""
            self._write(state, stale, entries, contents, anew=True)

    def _write(
        self,
        state: Mapping[str, Any],
        stale: Iterable[Entry],
        entries: Mapping[Entry, tuple[bytes | None, bytes | None]],
        contents: Mapping[str, bytes | None],
        anew: bool,
    ) -> None:
        with self._opened(write=True) as connection:
            if _version(connection) != self._version:
                return
            if anew:
                _make(connection)
            run = 1 + (connection.execute("SELECT max(run) FROM entry").fetchone()[0] or 0)
            connection.executemany("DELETE FROM entry WHERE path = ? AND settings = ? AND kind = ?", stale)
            rows = ((*key, result, basis, run) for key, (result, basis) in entries.items())
            connection.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?)", rows)
            connection.execute(_DROP_OLD, (_MAX_SETTINGS,))
            gone = [(path,) for path, data in contents.items() if data is None]
            connection.executemany("DELETE FROM content WHERE path = ?", gone)
            there = ((path, zlib.compress(data, 1)) for path, data in contents.items() if data is not None)
            connection.executemany("INSERT OR REPLACE INTO content VALUES (?, ?)", there)
            packs = [(name, packed(value)) for name, value in {**state, "version": os.urandom(8).hex()}.items()]
            connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", packs)

    def prepare(self) -> None:
        """Makes the folder of the caches, which no version control and no backup is to take for more than that."""
        folder = self.file.parent
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((".gitignore", _IGNORE), ("CACHEDIR.TAG", _TAG)):
            (folder / name).write_text(text)


def _version(connection: sqlite3.Connection) -> str:
    """The version of the content; empty if there is none."""
    try:
        row = connection.execute("SELECT data FROM state WHERE name = 'version'").fetchone()
        return str(unpacked(row[0])) if row is not None else ""
    except (sqlite3.OperationalError, zlib.error, ValueError, TypeError):
        # The table is not there, or something else is in it.
        return ""


def _make(connection: sqlite3.Connection) -> None:
    """Makes the tables, instead of those that are there."""
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        connection.execute(f'DROP TABLE "{name}"')
    for statement in _SCHEMA.split(";"):
        connection.execute(statement)
