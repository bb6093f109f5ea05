"""The fix engine: applies the fixes of a file pass by pass, and keeps only what a fresh check confirms."""

from __future__ import annotations

import difflib
import re
from bisect import bisect, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import libcst

from memlint.check.results import FileResult, Refusal
from memlint.check.suppression import UnusedNoqa
from memlint.diagnostics import Diagnostic, LocatedFix
from memlint.edits import Moves, Replacement, applied
from memlint.findings import Applicability
from memlint.notebook import Notebook, read_source
from memlint.parsing import parse
from memlint.source import Source, SourceError

MAX_PASSES = 10
"""A pass applies every fix that does not touch another; more passes than this means that fixes undo each other."""


_ROW = re.compile(r"[^\n]*\n|[^\n]+")


class FixOutcome(NamedTuple):
    """What fixing made of a file. Nothing has been written yet."""

    data: bytes
    """What the file should hold; equal to what it held if nothing was fixed."""
    fixed: tuple[Diagnostic, ...]
    """The diagnostics whose fixes are applied, each as it was found in its pass."""
    result: FileResult
    """The check of :attr:`data`: what remains."""
    refused: tuple[Refusal, ...]
    passes: int


def fix_data(path: Path, data: bytes, check: Callable[[bytes], FileResult], unsafe: bool) -> FixOutcome:
    """Applies the safe fixes, and with ``unsafe`` the unsafe ones too, to the bytes of the file at ``path``.

    ``check`` finds the diagnostics in bytes that would stand at ``path``. After each pass it must report no error,
    none of the fixed findings and no new one; fixes that fail this are refused and the others applied without them.
    """
    allowed = {Applicability.SAFE, Applicability.UNSAFE} if unsafe else {Applicability.SAFE}
    state = _State(path, data, check(data))
    fixed: list[Diagnostic] = []
    refusals: list[Refusal] = []
    passes = 0
    while passes < MAX_PASSES and (batch := _without_collisions(state.candidates(allowed))):
        passes += 1
        state, accepted, refused = _pass(state, batch, check)
        fixed += accepted
        refusals += refused
    return FixOutcome(state.data, tuple(fixed), state.result, tuple(refusals), passes)


@dataclass(frozen=True)
class _Candidate:
    """A diagnostic, by its index in the result of its pass, and the fix of it that may be applied."""

    index: int
    diagnostic: Diagnostic
    fix: LocatedFix
    replacements: tuple[Replacement, ...]


@dataclass
class _State:
    """The file between two passes."""

    path: Path
    data: bytes
    result: FileResult
    refused: set[int] = field(default_factory=set)
    """Indices of the diagnostics whose fix was tried and taken back."""

    @cached_property
    def source(self) -> Source:
        return read_source(self.path, self.data)

    def offset(self, diagnostic: Diagnostic) -> int:
        """Where ``diagnostic`` starts in the text."""
        return self.source.offset(diagnostic.location, diagnostic.cell)

    def row_text(self, diagnostic: Diagnostic) -> str:
        """The row that ``diagnostic`` starts on, without indentation."""
        row = self.source.place(self.offset(diagnostic)).row
        return self.source.text[self.source.row_starts[row - 1] : self.source.row_end(row)].strip()

    def candidates(self, allowed: set[Applicability]) -> Iterator[_Candidate]:
        """The diagnostics that have a fix to try, each with the first one that is allowed."""
        if self.result.error:
            return
        for index, diagnostic in enumerate(self.result.diagnostics):
            fix = next((fix for fix in diagnostic.fixes if fix.applicability in allowed), None)
            if fix and index not in self.refused:
                yield _Candidate(index, diagnostic, fix, tuple(self._replacements(fix)))

    def _replacements(self, fix: LocatedFix) -> Iterator[Replacement]:
        for edit in fix.edits:
            start, end = (self.source.offset(place, edit.cell) for place in (edit.location, edit.end_location))
            yield Replacement(start, end, edit.content)


def _without_collisions(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """The candidates that can be applied in one pass; of those that touch each other, the first."""
    batch: list[_Candidate] = []
    taken: list[Replacement] = []
    for candidate in candidates:
        if not any(_touches_any(replacement, taken) for replacement in candidate.replacements):
            batch.append(candidate)
            for replacement in candidate.replacements:
                insort(taken, replacement)
    return batch


def _touches_any(replacement: Replacement, taken: Sequence[Replacement]) -> bool:
    """Whether ``replacement`` touches one of ``taken``, which are sorted and do not overlap."""
    index = bisect(taken, replacement)
    return any(replacement.touches(other) for other in taken[max(index - 1, 0) : index + 1])


def _pass(
    state: _State, batch: Sequence[_Candidate], check: Callable[[bytes], FileResult]
) -> tuple[_State, list[Diagnostic], list[Refusal]]:
    """Applies ``batch``; where that fails, as much of it as can be applied, so that one bad fix blocks no other."""
    together = _attempt(state, batch, check)
    if isinstance(together, _State):
        return together, [candidate.diagnostic for candidate in batch], []
    accepted: list[_Candidate] = []
    refusals = []
    for candidate in batch:
        attempt = _attempt(state, [*accepted, candidate], check) if len(batch) > 1 else together
        if isinstance(attempt, _State):
            accepted.append(candidate)
        elif not accepted or not isinstance(_attempt(state, [candidate], check), _State):
            refusals.append(Refusal(candidate.diagnostic, attempt))
            state.refused.add(candidate.index)
        # What fails only beside others may go into the next pass, whose file is made by them.
    reached = _attempt(state, accepted, check) if accepted else state
    if not isinstance(reached, _State):
        return state, [], refusals
    return reached, [candidate.diagnostic for candidate in accepted], refusals


def _attempt(state: _State, batch: Sequence[_Candidate], check: Callable[[bytes], FileResult]) -> _State | str:
    """The file with the fixes of ``batch``, or the reason why they must not be applied together."""
    replacements = [replacement for candidate in batch for replacement in candidate.replacements]
    text = applied(state.source.text, replacements)
    if text == state.source.text:
        return "the fix changes nothing"
    try:
        data = state.source.encode(text)
        parse(text)
    except SourceError as error:
        return f"the fixed file cannot be written: {error}"
    except (libcst.ParserSyntaxError, RecursionError):
        return "the fixed file would not parse"
    result = check(data)
    if result.error:
        return f"the fixed file cannot be checked: {result.error.message}"
    after = _State(state.path, data, result)
    origins = _origins(state, after, replacements, {candidate.index for candidate in batch})
    # A noqa comment of a finding that is gone as well speaks for the fix, and the next pass removes it.
    expected = {UnusedNoqa.code}.union(*(candidate.fix.reveals for candidate in batch))
    for index, diagnostic in enumerate(result.diagnostics):
        if index not in origins and diagnostic.code not in expected:
            return _complaint(diagnostic, [candidate.diagnostic for candidate in batch])
    after.refused = {index for index, origin in origins.items() if origin in state.refused}
    return after


def _complaint(found: Diagnostic, fixed: Sequence[Diagnostic]) -> str:
    place = f"row {found.location.row}" if found.cell is None else f"cell {found.cell}, row {found.location.row}"
    if any(diagnostic.code == found.code for diagnostic in fixed):
        return f"{found.code} would still be reported ({place})"
    return f"{found.code} would be new ({place}): {found.message}"


def _origins(before: _State, after: _State, replacements: Sequence[Replacement], fixed: set[int]) -> dict[int, int]:
    """For each diagnostic after a pass that was there before and has not been fixed: its index now, and then.

    A diagnostic is the same if its code is, and it stands where the edits have moved it, or else (in what was replaced,
    or cut and inserted elsewhere) on a row with the same text.
    """
    moves = Moves(replacements)
    left: dict[int, Diagnostic] = {}
    by_place: dict[tuple[str, int], list[int]] = {}
    for index, diagnostic in enumerate(before.result.diagnostics):
        if index not in fixed:
            left[index] = diagnostic
            for offset in set(moves.of(before.offset(diagnostic))):
                by_place.setdefault((diagnostic.code, offset), []).append(index)
    origins: dict[int, int] = {}
    strays = []
    for index, found in enumerate(after.result.diagnostics):
        origin = next((old for old in by_place.get((found.code, after.offset(found)), ()) if old in left), None)
        if origin is None:
            strays.append((index, found))
        else:
            origins[index] = origin
            del left[origin]
    for index, found in strays:
        for old, diagnostic in left.items():
            if diagnostic.code == found.code and _is_same(before, diagnostic, after, found, moves):
                origins[index] = old
                del left[old]
                break
    return origins


def _is_same(before: _State, old: Diagnostic, after: _State, new: Diagnostic, moves: Moves) -> bool:
    first, last = moves.of(before.offset(old))
    return first <= after.offset(new) <= last or before.row_text(old) == after.row_text(new)


def unified_diff(path: Path, name: str, before: bytes, after: bytes) -> bytes:
    """The changes of one file as a unified diff; empty if there are none.

    ``name`` is the path to show, with forward slashes, relative to where the diff is to be applied (``git apply``,
    ``patch -p1``). The bytes are those of the file, whatever its encoding. A notebook's diff shows its cells, for
    reading, not for applying.
    """
    if path.suffix == ".ipynb":
        return "".join(_cell_diffs(name, before, after)).encode("utf-8", "surrogateescape")
    old, new = (data.decode("utf-8", "surrogateescape") for data in (before, after))
    return "".join(_diff(_quoted(f"a/{name}"), _quoted(f"b/{name}"), old, new)).encode("utf-8", "surrogateescape")


def _cell_diffs(name: str, before: bytes, after: bytes) -> Iterator[str]:
    old, new = Notebook.decode(before), Notebook.decode(after)
    for number in old.cell_numbers:
        label = f"{name}:cell {number}"
        yield from _diff(label, label, old.cell_text(number), new.cell_text(number))


def _diff(old_name: str, new_name: str, old: str, new: str) -> Iterator[str]:
    # Not splitlines(): a form feed or a lone \r ends no row of a patch.
    for row in difflib.unified_diff(_ROW.findall(old), _ROW.findall(new), old_name, new_name):
        yield row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n"


def _quoted(name: str) -> str:
    """A file name as git writes it in the head of a diff."""
    if any(character in '"\\' or ord(character) < 32 for character in name):
        escaped = "".join(_ESCAPES.get(character, character) for character in name)
        return f'"{escaped}"'
    return f"{name}\t" if " " in name else name


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
