"""SARIF 2.1.0: what is confirmed fails, what is refuted passes, the rest is open."""

from __future__ import annotations

import json
from typing import Any

from memlint.report import Report, sarif
from memlint.verify.report import VerifyReport
from memlint.verify.verdicts import Judged, Verdict

_KINDS = {
    Verdict.CONFIRMED: "fail",
    Verdict.REFUTED: "pass",
    Verdict.NOT_EXERCISED: "notApplicable",
    Verdict.INCONCLUSIVE: "open",
}


def render(report: VerifyReport, *, color: bool = False, width: int | None = None) -> str:  # noqa: ARG001 - it has neither
    """A log with one run."""
    document = json.loads(sarif.render(Report(report.results, report.errors, report.rules, report.root)))
    run = document["runs"][0]
    # The findings of a log stand in the order of the files, as those of the report do.
    for result, each in zip(run["results"], report.judged, strict=True):
        _add_verdict(result, each)
    if report.failure:
        invocation = run["invocations"][0]
        invocation["executionSuccessful"] = False
        invocation["toolExecutionNotifications"].append({"level": "error", "message": {"text": report.failure}})
    return json.dumps(document, indent=2) + "\n"


def _add_verdict(result: dict[str, Any], each: Judged) -> None:
    ruling = each.ruling
    result["kind"] = _KINDS[ruling.verdict]
    if ruling.verdict is not Verdict.CONFIRMED:
        # The standard wants no level for what does not fail.
        result["level"] = "none"
    result["message"]["text"] = f"{ruling.verdict.value}: {result['message']['text']}. {ruling.evidence}"
    result["properties"] |= {
        "verdict": ruling.verdict.value,
        "bytesPerStep": ruling.bytes_per_step,
        "bytesAtPeak": ruling.bytes_at_peak,
        "where": ruling.where,
    }
