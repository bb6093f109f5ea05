"""Workflow commands of GitHub Actions, with the verdict before the message: what is confirmed is an error."""

from __future__ import annotations

from memlint.check.results import FileResult
from memlint.findings import Severity
from memlint.report import Report, github
from memlint.verify.report import VerifyReport
from memlint.verify.verdicts import Verdict

_SEVERITIES = {
    Verdict.CONFIRMED: Severity.ERROR,
    Verdict.REFUTED: Severity.NOTE,
    Verdict.NOT_EXERCISED: Severity.NOTE,
    Verdict.INCONCLUSIVE: Severity.WARNING,
}


def render(report: VerifyReport, *, color: bool = False, width: int | None = None) -> str:  # noqa: ARG001 - it has neither
    """One workflow command for each finding."""
    shown = [
        each.diagnostic._replace(
            severity=_SEVERITIES[each.ruling.verdict],
            message=f"{each.ruling.verdict.value}: {each.diagnostic.message}. {each.ruling.evidence}",
        )
        for each in report.sorted_findings
    ]
    return github.render(Report([FileResult(each.path, [each]) for each in shown]))
