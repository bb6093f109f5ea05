"""JSON: the findings in the shape of ``memlint check``, each with its verdict, and the figures of the run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from memlint.report.json import finding
from memlint.verify.culprits import Culprit
from memlint.verify.memory import RunMemory
from memlint.verify.report import Comparison, VerifyReport
from memlint.verify.verdicts import Judged


def render(report: VerifyReport, *, color: bool = False, width: int | None = None) -> str:  # noqa: ARG001 - it has neither
    """One object."""
    memory, seen = report.memory, report.seen
    document = {
        "program": report.program,
        "device": memory.device if memory is not None else seen.device,
        "device_name": seen.device_name,
        "torch": seen.torch,
        "steps": seen.steps,
        "peak_allocated": memory.peak_allocated if memory is not None else None,
        "peak_reserved": memory.peak_reserved if memory is not None else None,
        "categories": memory.categories if memory is not None else {},
        "growth_per_step": memory.growth_per_step if memory is not None else None,
        "ending": seen.ending.value,
        "exit_code": seen.exit_code,
        "error": report.failure,
        "trace": report.trace,
        "notes": list(seen.notes),
        "ranks": [{"rank": rank, **_figures(each)} for rank, each in report.ranks],
        "comparison": _comparison(report.comparison),
        "findings": [_judged(each) for each in report.sorted_findings],
    }
    return json.dumps(document, indent=2) + "\n"


def _judged(each: Judged) -> dict[str, Any]:
    ruling = each.ruling
    return {
        **finding(each.diagnostic),
        "verdict": ruling.verdict.value,
        "memory": ruling.memory,
        "bytes_per_step": ruling.bytes_per_step,
        "bytes_at_peak": ruling.bytes_at_peak,
        "bytes_at_step_end": ruling.bytes_at_step_end,
        "per": ruling.per,
        "where": ruling.where,
        "evidence": ruling.evidence,
    }


def _changed_by(culprit: Culprit) -> dict[str, Any]:
    found = finding(culprit.diagnostic)
    kept = {key: found[key] for key in ("code", "filename", "location")}
    return {**kept, "corrects": culprit.correction or None}


def _figures(memory: RunMemory) -> dict[str, Any]:
    return {**asdict(memory), "growth_per_step": memory.growth_per_step}


def _comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    return {
        "before": _figures(comparison.before),
        "after": _figures(comparison.after),
        "fixes": comparison.fixes,
        "losses": comparison.losses[0],
        "equal_losses": comparison.losses[1],
        "largest_difference": comparison.largest_difference,
        "same_losses": comparison.same_losses,
        "changed_by": [_changed_by(each) for each in comparison.culprits],
        "host_growth": comparison.host_growth,
        "pays": comparison.pays,
        "seconds_per_step": list(comparison.seconds),
        "failure": comparison.failure or None,
    }
