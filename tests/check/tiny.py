"""Rules that are no bigger than what they are needed for: each finds the calls of one function."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libcst

from memlint.check.engine import check_data
from memlint.check.results import FileResult
from memlint.check.suppression import UnusedNoqa
from memlint.config import Options, Settings
from memlint.findings import Applicability, Confidence, Finding, Fix, Related, Severity
from memlint.model.program import Program
from memlint.model.project import Project
from memlint.rule import Rule


class Hazard(Rule):
    """Calls of `hazard` are errors that a safe fix turns into `harmless()`.

    Nothing more is to be said.
    """

    code = "MEM901"
    name = "hazard"
    severity = Severity.ERROR
    gate = frozenset({"hazard"})
    positive = ()
    negative = ()
    applicability = Applicability.SAFE

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls(*self.gate):
            yield self.report(call.node)

    def report(self, call: libcst.CSTNode) -> Finding:
        targets = {"expression": call}
        fix = Fix("replace_expression", "Call `harmless()`", self.applicability, targets, {"code": "harmless()"})
        message = f"`{self.name}` is called"
        return self.finding(call, message, holds="one byte", confidence=Confidence.CERTAIN, fixes=(fix,))


class Risk(Hazard):
    """Calls of `risk` are errors, too, but the fix is unsafe."""

    code = "MEM902"
    name = "risk"
    gate = frozenset({"risk"})
    applicability = Applicability.UNSAFE


class Waste(Hazard):
    """Calls of `waste` are warnings without a fix; a name as first argument is a related place."""

    code = "MEM911"
    name = "waste"
    severity = Severity.WARNING
    gate = frozenset({"waste"})

    def report(self, call: libcst.CSTNode) -> Finding:
        assert isinstance(call, libcst.Call)
        related = tuple(Related(argument.value, "this is wasted") for argument in call.args)
        return self.finding(call, "`waste` is called", holds="bytes", confidence=Confidence.LIKELY, related=related)


class Chance(Hazard):
    """Calls of `chance` are notes."""

    code = "MEM912"
    name = "chance"
    severity = Severity.NOTE
    gate = frozenset({"chance"})


class Doubt(Hazard):
    """Calls of `doubt` are possible findings."""

    code = "MEM913"
    name = "doubt"
    gate = frozenset({"doubt"})

    def report(self, call: libcst.CSTNode) -> Finding:
        return self.finding(call, "`doubt` is called", holds="perhaps", confidence=Confidence.POSSIBLE)


class Optional(Hazard):
    """Calls of `optional`; off by default."""

    code = "MEM921"
    name = "optional"
    gate = frozenset({"optional"})
    default = False


class Crash(Hazard):
    """Crashes at calls of `crash`."""

    code = "MEM931"
    name = "crash"
    gate = frozenset({"crash"})

    def report(self, call: libcst.CSTNode) -> Finding:
        raise KeyError(f"no such thing as a {type(call).__name__}")


RULES: tuple[Rule, ...] = (UnusedNoqa(), Hazard(), Risk(), Waste(), Chance(), Doubt(), Optional(), Crash())
CODES = frozenset(rule.code for rule in RULES)


def check(
    text: str | bytes,
    *,
    path: Path = Path("/project/x.py"),
    named: bool = False,
    noqa: bool = True,
    least: Confidence = Confidence.LIKELY,
    **options: Any,
) -> FileResult:
    """What the rules find in ``text``; ``options`` are what a configuration says."""
    data = text.encode() if isinstance(text, str) else text
    settings = Options(**options).applied(Settings(path.parent))
    project = Project(path.parent, ())
    return check_data(path, data, RULES, project, settings, noqa=noqa, named=named, least=least)


def found(result: FileResult) -> list[tuple[int, int, str]]:
    """Row, column and code of each diagnostic."""
    return [(each.location.row, each.location.column, each.code) for each in result.diagnostics]
