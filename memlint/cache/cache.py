"""What ``memlint check`` found before, as far as it still holds."""

from __future__ import annotations

import functools
import os
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from memlint.cache.encoding import from_result, packed, to_result, unpacked
from memlint.cache.fingerprint import fingerprint
from memlint.cache.store import UNUSABLE, Entry, Store
from memlint.cache.world import (
    Changes,
    Seen,
    World,
    digest_of,
    is_other_now,
    look,
    names_in,
    read,
    settled,
    status_of,
)
from memlint.check.results import FileReport, FileResult, Importing
from memlint.config import Configuration
from memlint.files import ErrorKind, SourceFile
from memlint.rule import RuleFacts

DIRECTORY = ".memlint_cache"
_PARSED, _NAMED, _WALKED = "parsed", "named", "walked"
"""The kinds of check: of a file that was parsed, which is the same for all; of one that was not, because no rule can
fire in it, so that what was named on the command line has to be Python and what was found by walking has not."""


class Cache:
    """The cache of one project. Whatever is wrong with its file, it only remembers less."""

    def __init__(self, directory: Path, root: Path) -> None:
        name = f"{root.name or 'root'}-{zlib.crc32(os.fsencode(root)):08x}.sqlite3"
        self._store = Store(directory / name)
        self._print = [fingerprint(), str(root)]
        self._world = World()
        self._changes = Changes()
        self._stale: list[Entry] = []
        self._settings: list[str] = []
        self._numbers: dict[Path, int] = {}
        self._listings: dict[str, frozenset[str]] = {}
        """The names in folders, each listed once while entries are made."""
        self._used: set[str] = set()
        """Files that entries rest on."""
        self._is_surveyed = False
        """Whether :attr:`_used` holds them all."""
        self._anew = True
        """Whether there is nothing that can be used."""
        self.facts = self._read()
        """What has been kept of the rules that there are; None if nothing can be used."""

    def _read(self) -> tuple[RuleFacts, ...] | None:
        try:
            state = self._store.read(("print", "rules", "settings", "world"))
            if state["print"] != self._print:
                return None
            facts = tuple(RuleFacts(*each) for each in state["rules"])
            self._world = World.from_json(state["world"])
            self._settings = [str(text) for text in state["settings"]]
        except UNUSABLE:
            return None
        self._anew = False
        return facts

    def prepare(self) -> None:
        """Makes its folder: before folders are looked at, since that changes the one that it is made in."""
        with suppress(OSError):
            self._store.prepare()

    # ------------------------------------------------------------------ reading

    def known(
        self,
        files: Sequence[SourceFile],
        members: Iterable[Path],
        configuration: Configuration,
        rules: Sequence[RuleFacts],
    ) -> dict[Path, FileResult]:
        """The results of those of ``files`` that still hold; ``members`` are the files of the project."""
        before = self._world
        self._world, self._changes = look(before, members)
        self._numbers = {file.path: self._number(file.path, configuration, rules) for file in files}
        if self._anew:
            return {}
        try:
            found = self._store.results(set(self._numbers.values()))
            if self._changes:
                self._stale = self._outdated()
                for key in self._stale:
                    found.pop(key, None)
            return dict(self._results(files, found))
        except UNUSABLE:
            if os.environ.get("MEMLINT_DEBUG") == "1":
                raise
            self._forget()
            return {}

    def _forget(self) -> None:
        """Begins anew, with the world as it is."""
        self._anew = True
        self._stale = []
        self._world, self._changes = look(
            World(), [Path(path) for path, seen in self._world.files.items() if seen.is_member]
        )

    def _number(self, path: Path, configuration: Configuration, rules: Sequence[RuleFacts]) -> int:
        """The number of the settings that decide what is found in the file at ``path``."""
        settings = configuration.settings(path.parent)
        text = _described(settings.enabled_in(path, rules), settings.device)
        if text not in self._settings:
            self._settings.append(text)
        return self._settings.index(text)

    def _outdated(self) -> list[Entry]:
        """The entries that do not hold any more."""
        from memlint.cache.validity import Validity

        contents = self._store.contents(self._changes.members)
        validity = Validity(self._world, self._changes, contents.get)
        outdated = []
        for key, pack in self._store.bases().items():
            basis = None if pack is None else unpacked(pack)
            if not validity.holds(key[0], basis):
                outdated.append(key)
            elif basis is not None:
                self._used.update(basis["files"])
        self._is_surveyed = True
        return outdated

    def _results(
        self, files: Sequence[SourceFile], found: Mapping[Entry, bytes | None]
    ) -> Iterable[tuple[Path, FileResult]]:
        for file in files:
            for kind in (_PARSED, _NAMED if file.named else _WALKED):
                key = (str(file.path), self._numbers[file.path], kind)
                if key in found:
                    kept = found[key]
                    yield file.path, FileResult(file.path, []) if kept is None else to_result(file.path, unpacked(kept))
                    break

    # ------------------------------------------------------------------ writing

    def keep(self, reports: Iterable[FileReport], rules: Sequence[RuleFacts]) -> None:
        """Keeps what has been found, where it is known what it rests on."""
        fresh = [report for report in reports if report.record is not None]
        if not fresh and not self._changes and not self._changes.is_retouched:
            return
        try:
            if self._has_moved():
                return
            self._write(fresh, rules)
        except _MovedError:
            return
        except UNUSABLE:
            # The next run begins anew.
            if os.environ.get("MEMLINT_DEBUG") == "1":
                raise

    def _has_moved(self) -> bool:
        """Whether a file has been written to while it was checked, so that nobody knows which version was read."""
        return any(seen.status and seen.status != status_of(path) for path, seen in self._world.files.items())

    def _write(self, fresh: Sequence[FileReport], rules: Sequence[RuleFacts]) -> None:
        self._listings.clear()
        for record in filter(None, (report.record for report in fresh)):
            self._learn(record.importing)
        entries = dict(filter(None, map(self._entry, fresh)))
        if self._is_surveyed or self._anew:
            kept = self._world.files.items()
            self._world.files = {path: seen for path, seen in kept if seen.is_member or path in self._used}
        contents = {path: read(path) if self._is_member(path) else None for path in self._changes.members}
        state = {
            "print": self._print,
            "rules": [list(each) for each in rules],
            "settings": self._settings,
            "world": self._world.to_json(),
        }
        self._store.write(state, self._stale, entries, contents, anew=self._anew)

    def _is_member(self, path: str) -> bool:
        seen = self._world.files.get(path)
        return seen is not None and seen.is_member

    def _learn(self, importing: Mapping[Path, Importing]) -> None:
        """Takes in what imports have met."""
        for folder, met in importing.items():
            known = self._world.importing.setdefault(str(folder), Importing())
            known.packages = known.packages or met.packages
            for where, names in met.missed.items():
                known.missed.setdefault(where, set()).update(names)
            for where in (*met.missed, *map(os.path.dirname, met.packages)):
                self._watch(where)

    def _watch(self, folder: str) -> None:
        """Looks at a folder for the first time. Raises _MovedError if something has appeared that was missed."""
        if folder in self._world.folders:
            return
        self._world.folders[folder] = settled(status_of(folder), time.time_ns())
        names = names_in(folder)
        for each in self._world.importing.values():
            if is_other_now(each, {folder: names}):
                raise _MovedError

    def _entry(self, report: FileReport) -> tuple[Entry, tuple[bytes | None, bytes | None]] | None:
        """What is kept of a report; None if it cannot be told what it rests on."""
        path, record, result = report.file.path, report.record, report.result
        if record is None or (result.error is not None and result.error.kind is not ErrorKind.SYNTAX):
            return None
        if not self._is_as_read(str(path), record.digest):
            return None
        found = from_result(result)
        packed_result = packed(found) if found else None
        number = self._numbers[path]
        rests_on = record.dependencies
        if rests_on is None:
            return (str(path), number, _NAMED if report.file.named else _WALKED), (packed_result, None)
        if not all(self._is_as_read(str(each), digest) for each, digest in rests_on.files.items()):
            return None
        for (folder, pattern), names in rests_on.listed.items():
            self._watch(str(folder))
            from memlint.model.lookups import matching

            if matching(self._listed(str(folder)), pattern) != names:
                return None
        files = sorted(map(str, rests_on.files))
        self._used.update(files)
        basis = {
            "files": files,
            "listed": [[str(folder), pattern, list(names)] for (folder, pattern), names in rests_on.listed.items()],
            "calls": [[str(each.own), each.module, each.owner, each.name] for each in rests_on.calls],
            "names": list(rests_on.names),
        }
        return (str(path), number, _PARSED), (packed_result, packed(basis))

    def _listed(self, folder: str) -> frozenset[str]:
        if folder not in self._listings:
            self._listings[folder] = names_in(folder)
        return self._listings[folder]

    def _is_as_read(self, path: str, digest: bytes) -> bool:
        """Whether the file at ``path`` is what it was when it was read for a check."""
        seen = self._world.files.get(path)
        if seen is None:
            status = status_of(path)
            seen = Seen(settled(status, time.time_ns()), digest_of(read(path)), is_member=False)
            self._world.files[path] = seen
        return seen.digest == digest.hex()


@functools.lru_cache(maxsize=64)
def _described(codes: frozenset[str], device: str | None) -> str:
    """What decides what is found in a file, as it is kept."""
    return f"{','.join(sorted(codes))} {device or ''}"


class _MovedError(ValueError):
    """Something has changed while files were checked."""
