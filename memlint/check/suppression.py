"""``# noqa`` and ``# memlint: skip-file``: what the author of a file has silenced, and which of that does nothing."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, NamedTuple

from memlint.diagnostics import Diagnostic, Edit, LocatedFix, Location
from memlint.edits import Replacement, applied
from memlint.findings import Applicability, Confidence, Finding, Severity
from memlint.messages import did_you_mean
from memlint.model.program import Program
from memlint.rule import Rule
from memlint.source import Source

# What flake8 takes for a noqa comment: codes are separated by commas or blanks, what follows them is free text.
_NOQA = re.compile(r"# noqa(?::[\s]?(?P<codes>(?:[A-Z]+[0-9]+(?:[,\s]+)?)+))?", re.IGNORECASE)
_SKIP_FILE = re.compile(r"#[ \t]*memlint:[ \t]*skip-file\b")
_CODE = re.compile(r"[^,\s]+")
_OWN_CODE = re.compile(r"MEM[0-9]+", re.IGNORECASE)
# Whether a look at the comments can be worth the time.
_MAY_NAME_OWN_CODES = re.compile(rb"#[ ]noqa:[^\r\n]*MEM[0-9]", re.IGNORECASE)
_MAY_SKIP_FILE = re.compile(_SKIP_FILE.pattern.encode())


class UnusedNoqa(Rule):
    """Finds `noqa` comments that name a memlint code and silence nothing.

    ## What it does
    Reports each code of memlint in a `# noqa: ...` comment that silences no finding, because the hazard is gone, the
    comment stands on another row than the finding, or memlint has no rule with that code. Codes of rules that are
    switched off in this run, codes of other linters, and `# noqa` without codes are left alone.

    ## Why is this bad?
    A comment that silences nothing today hides a hazard that is added to the row tomorrow, and tells readers of a
    problem that is not there. It costs no memory itself.

    ## Example
    ```python
    total += loss.item()  # noqa: MEM101
    ```

    ## Use instead
    ```python
    total += loss.item()
    ```

    ## Fix safety
    Safe: only the comment changes. Other codes and other comments on the row stay. There is no fix for a code that
    memlint does not have, because it may belong to a newer version.

    ## When to ignore
    When the finding depends on the platform or on the version of memlint; add `MEM001` to the same comment.

    ## References
    - [flake8: in-line ignoring of errors](https://flake8.pycqa.org/en/latest/user/violations.html)
    """

    code: ClassVar[str] = "MEM001"
    name: ClassVar[str] = "unused-noqa"
    severity: ClassVar[Severity] = Severity.WARNING
    gate: ClassVar[frozenset[str]] = frozenset({"noqa"})
    positive: ClassVar[tuple[str, ...]] = ("total += loss.item()  # noqa: MEM101  # MEM001\n",)
    negative: ClassVar[tuple[str, ...]] = ("import os  # noqa: F401\n", "import os  # noqa\n")

    def check(self, program: Program) -> Iterator[Finding]:  # noqa: ARG002
        """Nothing: only the engine knows what a comment has silenced (:func:`idle_noqa`)."""
        return iter(())


class Comment(NamedTuple):
    """A comment with its number sign, and the place where it starts."""

    location: Location
    text: str
    before: str
    """What stands before it on its row."""


class Noqa(NamedTuple):
    """A noqa comment. ``codes`` is empty if it silences everything on its row."""

    comment: Comment
    match: re.Match[str]

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes, or beginnings of codes, that it names."""
        return tuple(_CODE.findall(self.match["codes"] or ""))

    def silences(self, code: str) -> bool:
        """Whether it silences findings with ``code``."""
        return self.match["codes"] is None or code.startswith(self.codes)

    def place(self, code: str) -> tuple[Location, Location]:
        """Where one of its codes starts and ends."""
        row, column = self.comment.location.row, self.comment.location.column
        found = next(each for each in _CODE.finditer(self.comment.text, self.match.start("codes")) if each[0] == code)
        return Location(row, column + found.start()), Location(row, column + found.end())


def skips_file(data: bytes, text: str) -> bool:
    """Whether a comment in ``text``, whose bytes are ``data``, asks to leave the file alone."""
    return bool(_MAY_SKIP_FILE.search(data)) and any(_SKIP_FILE.search(each.text) for each in comments(text))


def may_name_own_codes(data: bytes) -> bool:
    """Whether the bytes of a file look as if a noqa comment in it named a code of memlint."""
    return bool(_MAY_NAME_OWN_CODES.search(data))


def noqa_comments(text: str) -> dict[int, Noqa]:
    """The noqa comments in ``text`` by their rows."""
    if "noqa" not in text.casefold():
        return {}
    found = ((comment, _NOQA.search(comment.text)) for comment in comments(text))
    return {comment.location.row: Noqa(comment, match) for comment, match in found if match}


def comments(text: str) -> list[Comment]:
    """The comments in ``text``; where it stops to be Python, whatever follows a number sign counts as one."""
    # StringIO turns every newline of Python's into \n; columns do not change.
    rows = io.StringIO(text, newline=None).readlines()
    found = []
    row = 0
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(iter([*rows, ""]).__next__):
            row = token.end[0]
            if token.type == tokenize.COMMENT:
                found.append(_comment(rows, token.start[0], token.start[1]))
    left = range(row + 1, len(rows) + 1)
    return [*found, *(_comment(rows, each, rows[each - 1].index("#")) for each in left if "#" in rows[each - 1])]


def _comment(rows: Sequence[str], row: int, offset: int) -> Comment:
    line = rows[row - 1].rstrip("\n")
    return Comment(Location(row, offset + 1), line[offset:], line[:offset])


def idle_noqa(
    path: Path,
    noqas: Iterable[Noqa],
    silenced: Collection[tuple[int, str]],
    enabled: Collection[str],
    known: Collection[str],
    url: str,
) -> Iterator[Diagnostic]:
    """A diagnostic for each noqa comment with codes of memlint that silence nothing.

    ``silenced`` holds row and code of each finding that a comment has silenced; ``enabled`` are the codes of the rules
    that have been run to their end, ``known`` those of all rules.
    """
    for noqa in noqas:
        own = [code for code in dict.fromkeys(noqa.codes) if _OWN_CODE.fullmatch(code)]
        if not own or noqa.silences(UnusedNoqa.code):
            continue
        for code in own:
            if not any(each.startswith(code) for each in known):
                yield _diagnostic(path, noqa, [code], f"`{code}` is no code of memlint{did_you_mean(code, known)}", url)
        row = noqa.comment.location.row
        idle = [code for code in own if _is_idle(code, row, silenced, enabled, known)]
        if idle:
            codes = " and ".join(f"`{code}`" for code in idle)
            verb = "silences" if len(idle) == 1 else "silence"
            message = f"{codes} in this noqa comment {verb} nothing"
            yield _diagnostic(path, noqa, idle, message, url, _removal(noqa, idle))


def _is_idle(
    code: str, row: int, silenced: Collection[tuple[int, str]], enabled: Collection[str], known: Collection[str]
) -> bool:
    meant = {each for each in known if each.startswith(code)}
    return bool(meant) and meant.issubset(enabled) and not any((row, each) in silenced for each in meant)


def _diagnostic(
    path: Path, noqa: Noqa, codes: Sequence[str], message: str, url: str, fix: LocatedFix | None = None
) -> Diagnostic:
    return Diagnostic(
        code=UnusedNoqa.code,
        name=UnusedNoqa.name,
        message=message,
        path=path,
        location=noqa.place(codes[0])[0],
        end_location=noqa.place(codes[-1])[1],
        severity=UnusedNoqa.severity,
        confidence=Confidence.CERTAIN,
        holds="",
        fixes=(fix,) if fix else (),
        noqa_row=noqa.comment.location.row,
        url=url,
    )


def _removal(noqa: Noqa, idle: Sequence[str]) -> LocatedFix:
    """The fix that takes codes out of a noqa comment, and all of the comment if it has no others."""
    left = [code for code in noqa.codes if code not in idle]
    message = f"Remove {' and '.join(f'`{code}`' for code in idle)}"
    edit = _with_codes(noqa, left) if left else _without_noqa(noqa)
    return LocatedFix(Applicability.SAFE, message, (edit,))


def _with_codes(noqa: Noqa, codes: Sequence[str]) -> Edit:
    row, column = noqa.comment.location.row, noqa.comment.location.column
    start = column + noqa.match.start("codes")
    size = len(noqa.match["codes"].rstrip(", \t"))
    return Edit(Location(row, start), Location(row, start + size), ", ".join(codes))


def _without_noqa(noqa: Noqa) -> Edit:
    """Keeps what the comment says before and after; removes the row if nothing else is on it."""
    comment, match = noqa.comment, noqa.match
    row = comment.location.row
    before, after = comment.text[: match.start()].rstrip(), comment.text[match.end() :].strip()
    after = after if not after or after.startswith("#") else f"# {after}"
    kept = "  ".join(part for part in (before, after) if part)
    if kept:
        end = comment.location.column + len(comment.text)
        return Edit(comment.location, Location(row, end), kept)
    if not comment.before.strip():
        return Edit(Location(row, 1), Location(row + 1, 1), "")
    start = len(comment.before.rstrip()) + 1
    return Edit(Location(row, start), Location(row, comment.location.column + len(comment.text)), "")


def with_noqa(source: Source, diagnostics: Iterable[Diagnostic]) -> str:
    """The text of ``source`` with noqa comments that silence ``diagnostics``, as found in it."""
    return applied(source.text, noqa_additions(source, diagnostics))


def noqa_additions(source: Source, diagnostics: Iterable[Diagnostic]) -> list[Replacement]:
    """The replacements in the text of ``source`` that make noqa comments silence ``diagnostics``, as found in it."""
    missing: dict[int, list[str]] = {}
    for diagnostic in diagnostics:
        row = source.place(source.offset(Location(diagnostic.noqa_row, 1), diagnostic.cell)).row
        if diagnostic.code != UnusedNoqa.code and diagnostic.code not in missing.setdefault(row, []):
            missing[row].append(diagnostic.code)
    present = noqa_comments(source.text)
    return [_addition(source, row, codes, present.get(row)) for row, codes in missing.items()]


def _addition(source: Source, row: int, codes: Sequence[str], present: Noqa | None) -> Replacement:
    if present and present.codes:
        end = present.place(present.codes[-1])[1]
        return Replacement(source.offset(end), source.offset(end), f", {', '.join(codes)}")
    end_of_row = source.row_end(row)
    start = source.row_starts[row - 1] + len(source.text[source.row_starts[row - 1] : end_of_row].rstrip())
    return Replacement(start, end_of_row, f"  # noqa: {', '.join(codes)}" if codes else "")
