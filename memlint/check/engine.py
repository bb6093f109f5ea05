"""From the bytes of one file to its diagnostics. Nothing that a file holds makes this raise."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import libcst

from memlint.bare_trees.building import python_tree
from memlint.bare_trees.layout import LayoutError
from memlint.check.gate import rules_that_can_fire
from memlint.check.locate import locate
from memlint.check.results import FileResult
from memlint.check.suppression import UnusedNoqa, idle_noqa, may_name_own_codes, noqa_comments, skips_file
from memlint.config import Settings
from memlint.diagnostics import Diagnostic, Location
from memlint.files import ErrorKind, FileError
from memlint.findings import Confidence, Finding
from memlint.model.program import Program
from memlint.model.project import Project
from memlint.notebook import Notebook, read_source
from memlint.parsing import TOO_DEEP, deep_recursion, is_deep, parse
from memlint.registry import documentation_url
from memlint.rule import Rule
from memlint.source import Source, SourceError
from memlint.stages import stage

_DEBUG = "MEMLINT_DEBUG"
"""Environment variable; if set to 1, internal errors are raised instead of reported in one line."""
_LIBCST_ERROR = re.compile(
    r"(?:parser|tokenizer) error: (?:error at (?P<row>\d+):(?P<column>\d+): )?(?P<message>.*)", re.DOTALL
)
_DECLARED_ENCODING = re.compile(rb"(?:[^\r\n]*(?:\r\n?|\n))?[ \t\f]*#[^\r\n]*?coding[:=][ \t]*([-\w.]+)")
_PLAIN_ENCODINGS = (b"utf-8", b"utf8", b"ascii", b"us-ascii", b"latin", b"iso-8859", b"cp125", b"koi8")
"""Beginnings of the names of encodings that have ASCII as a part."""


def check_data(
    path: Path,
    data: bytes,
    rules: Sequence[Rule],
    project: Project,
    settings: Settings,
    *,
    least: Confidence = Confidence.LIKELY,
    noqa: bool = True,
    named: bool = False,
) -> FileResult:
    """Checks ``data``, which stands (or will stand) at the absolute ``path``, with those of ``rules`` that are on.

    ``rules`` are all rules that there are; ``settings`` says which of them are on. ``least`` is the weakest confidence
    that is reported. Without ``noqa``, comments silence nothing (for hosts that do it themselves). A ``named`` file
    has to parse even if no rule can fire in it.
    """
    try:
        return _Check(path, data, rules, settings, least, noqa).run(project, named)
    except SourceError as error:
        return FileResult(path, [], FileError(path, str(error)))
    except LayoutError as error:
        return FileResult(path, [], FileError(path, f"cannot tell where its statements stand ({error})"))
    except _NotPython as error:
        return FileResult(path, [], error.report)


class _Check:
    """The check of one file."""

    def __init__(
        self, path: Path, data: bytes, rules: Sequence[Rule], settings: Settings, least: Confidence, noqa: bool
    ) -> None:
        self.path = path
        self.data = data
        self.rules = rules
        self.least = least
        self.noqa = noqa
        self.enabled = settings.enabled_in(path, rules)
        self.device = settings.device
        self.crashes: dict[str, Exception] = {}

    def run(self, project: Project, named: bool) -> FileResult:
        """The result. Raises SourceError for what is not text and _NotPython for what does not parse."""
        source = None if _is_plain(self.path, self.data) else read_source(self.path, self.data)
        with stage("gate"):
            data = self.data if source is None else source.text.encode("utf-8", "replace")
            possible = self._rules_that_can_fire(data)
        if not possible and not named:
            return FileResult(self.path, [])
        source = source or read_source(self.path, self.data)
        if skips_file(self.data, source.text):
            return FileResult(self.path, [])
        if not possible:
            _expect_python(self.path, source)
            return FileResult(self.path, [])
        with deep_recursion():
            diagnostics = self._diagnostics(source, possible, project)
        return self._result(source, diagnostics)

    def _rules_that_can_fire(self, data: bytes) -> tuple[Rule, ...]:
        """The rules that are on and pass the gate; the one about noqa comments only where they name codes of ours."""
        idle = frozenset() if self.noqa and may_name_own_codes(data) else frozenset({UnusedNoqa.code})
        return rules_that_can_fire(data, [rule for rule in self.rules if rule.code in self.enabled - idle])

    def _diagnostics(self, source: Source, rules: Sequence[Rule], project: Project) -> list[Diagnostic]:
        """What the author has not silenced, and what has been silenced for nothing."""
        program = self._program(source, project)
        source.attach(program.tree)
        found = [diagnostic for rule in rules for diagnostic in self._findings(rule, program, source)]
        wants_idle = any(rule.code == UnusedNoqa.code for rule in rules)
        if not self.noqa or not (found or wants_idle):
            return found
        noqas = noqa_comments(source.text)
        silent = [each for each in found if (noqa := noqas.get(each.noqa_row)) and noqa.silences(each.code)]
        loud = [each for each in found if each not in silent]
        if not wants_idle:
            return loud
        silenced = {(each.noqa_row, each.code) for each in silent}
        run = self.enabled - self.crashes.keys()
        known = [rule.code for rule in self.rules]
        url = documentation_url(UnusedNoqa.code)
        return [*loud, *idle_noqa(self.path, noqas.values(), silenced, run, known, url)]

    def _program(self, source: Source, project: Project) -> Program:
        try:
            program = project.program(self.path, source.text, self.data)
        except libcst.ParserSyntaxError as error:
            raise _NotPython(_syntax_error(self.path, source, error)) from error
        except Exception as error:  # A bug in one file must not end the run.
            self._crashed("the program model", error)
            raise _NotPython(self._internal_error(source)) from error
        program.device = self.device
        return program

    def _findings(self, rule: Rule, program: Program, source: Source) -> list[Diagnostic]:
        try:
            with stage(rule.code):
                found = (each for each in rule.check(program) if self._counts(each))
                return locate(found, source, self.path, documentation_url)
        except (SourceError, LayoutError):
            # The text cannot be read in some other way than its tree says; no rule is to blame.
            raise
        except Exception as error:  # noqa: BLE001 - a bug in one rule must not silence the others
            self._crashed(rule.code, error)
            return []

    def _counts(self, finding: Finding) -> bool:
        """Whether the place of ``finding`` is needed: it is reported, or may be what a comment silences."""
        return finding.confidence.rank >= self.least.rank or self._may_silence

    @cached_property
    def _may_silence(self) -> bool:
        return self.noqa and may_name_own_codes(self.data)

    def _crashed(self, where: str, error: Exception) -> None:
        if os.environ.get(_DEBUG) == "1":
            raise error
        self.crashes[where] = error

    def _internal_error(self, source: Source) -> FileError:
        """One line for everything that has crashed."""
        if any(isinstance(error, RecursionError) for error in self.crashes.values()) and is_deep(source.text):
            return FileError(self.path, f"{TOO_DEEP} to be analysed completely")
        crashes = [f"{where} ({_one_line(error)})" for where, error in self.crashes.items()]
        message = f"internal error in {', '.join(crashes)}; please report it with the output of {_DEBUG}=1"
        return FileError(self.path, message, kind=ErrorKind.INTERNAL)

    def _result(self, source: Source, diagnostics: Sequence[Diagnostic]) -> FileResult:
        reported = [each for each in diagnostics if each.confidence.rank >= self.least.rank]
        error = self._internal_error(source) if self.crashes else None
        if not reported:
            return FileResult(self.path, [], error)
        placed = sorted((source.relocate(each) for each in reported), key=lambda each: each.sort_key)
        numbers = {each.cell for each in placed if each.cell is not None}
        cells = {number: source.cell_text(number) for number in numbers} if isinstance(source, Notebook) else {}
        return FileResult(self.path, placed, error, source.text, cells)


class _NotPython(Exception):
    """A file that cannot be read as a program."""

    def __init__(self, report: FileError) -> None:
        super().__init__(report.message)
        self.report = report


def _is_plain(path: Path, data: bytes) -> bool:
    """Whether ASCII characters, and nothing else, are ASCII bytes in ``data``, so that the gate can read it."""
    if path.suffix == ".ipynb":
        return False
    declared = _DECLARED_ENCODING.match(data)
    return declared is None or declared[1].lower().replace(b"_", b"-").startswith(_PLAIN_ENCODINGS)


def _expect_python(path: Path, source: Source) -> None:
    """Raises _NotPython if ``source`` does not parse. Python's own parser is fast; libcst's decides."""
    if _python_error(source.text) is None:
        return
    try:
        parse(source.text)
    except libcst.ParserSyntaxError as error:
        raise _NotPython(_syntax_error(path, source, error)) from error


def _python_error(text: str) -> SyntaxError | None:
    """What Python itself has against ``text``."""
    try:
        python_tree(text)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError) as error:
        return SyntaxError(str(error))
    return None


def _syntax_error(path: Path, source: Source, error: libcst.ParserSyntaxError) -> FileError:
    """One line about ``error``, in Python's words if Python has something against the file, too."""
    if error.message == TOO_DEEP:
        return _placed(path, source, f"an expression is {TOO_DEEP}", Location(error.raw_line, error.raw_column + 1))
    python = _python_error(source.text)
    if python and python.lineno:
        return _placed(path, source, f"syntax error: {python.msg}", Location(python.lineno, python.offset or 1))
    match = _LIBCST_ERROR.match(error.message)
    place = Location(error.editor_line, error.editor_column)
    if match and match["row"]:
        place = Location(int(match["row"]), int(match["column"]))
    message = match["message"] if match else error.message
    return _placed(path, source, f"syntax error: {_first_line(message)}", place)


def _placed(path: Path, source: Source, message: str, place: Location) -> FileError:
    cell = None
    if isinstance(source, Notebook) and source.cell_numbers:
        cell, place = source.place_in_cell(place)
    return FileError(path, message, place.row, max(place.column, 1), cell=cell)


def _one_line(error: Exception) -> str:
    text = _first_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
