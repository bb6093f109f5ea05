"""A table that a person reads in ten seconds: the verdict, the place, the bytes, and why."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from memlint.report.concise import place
from memlint.report.verification.comparison import Tone, comparison_lines
from memlint.report.verification.evidence import evidence
from memlint.verify.observations import Ending
from memlint.verify.report import Comparison, VerifyReport
from memlint.verify.sizes import counted, in_bytes
from memlint.verify.verdicts import Ruling, Verdict

_WIDTH = 120
"""Columns where there is no terminal."""
_TONES = {Tone.PLAIN: "", Tone.HEADING: "bold", Tone.GOOD: "green", Tone.NOTE: "yellow", Tone.ALARM: "bold red"}
_STYLES = {
    Verdict.CONFIRMED: "bold red",
    Verdict.REFUTED: "green",
    Verdict.NOT_EXERCISED: "yellow",
    Verdict.INCONCLUSIVE: "yellow",
}


def render(report: VerifyReport, *, color: bool = False, width: int | None = None) -> str:
    """What ran, a row for each finding, and the sum of it."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=width or _WIDTH,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        markup=False,
    )
    for line in _heading(report):
        console.print(line)
    if report.judged:
        console.print()
        console.print(_table(report))
    if report.comparison is not None:
        console.print()
        for text in _comparison(report.comparison):
            console.print(text)
    console.print()
    console.print(_summary(report))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _heading(report: VerifyReport) -> Iterator[Text]:
    seen = report.seen
    if report.trace:
        yield Text(f"{report.program}: judged by {report.trace}, without a run")
    elif seen.ending is Ending.DIED:
        yield Text(f"{report.program} was ended before it could say what it had seen.")
    elif not seen.torch:
        yield Text(f"{report.program} ran without torch.")
    elif seen.device == "cpu":
        ran = f"{seen.extent} on the CPU, with torch {seen.torch}"
        yield Text(f"{report.program} ran {ran}; tensors of the device are host tensors here.")
    else:
        yield Text(f"{report.program} ran {seen.extent} on {seen.device_name or seen.device}.")
    memory = report.memory
    if memory is not None:
        by_size = sorted(memory.categories.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name.replace('_', ' ')} {in_bytes(size)}" for name, size in by_size)
        reserves = "reserved" if memory.device != "cpu" else "which the CUDA allocator would reserve"
        reserved = f"{in_bytes(memory.peak_reserved)} {reserves}"
        if memory.device == "cpu":
            reserved = f"for which the CUDA allocator would reserve {in_bytes(memory.peak_reserved)}"
        yield Text(f"Peak {in_bytes(memory.peak_allocated)}, {reserved}" + (f": {parts}." if parts else "."))
    for rank, figures in report.ranks:
        worst = " (the worst)" if figures is memory else ""
        yield Text(f"Rank {rank}: peak {in_bytes(figures.peak_allocated)}{worst}")
    for note in seen.notes:
        yield Text(f"Note: {note}", style="yellow")


def _table(report: VerifyReport) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=True, header_style="bold")
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Finding", overflow="fold", ratio=3)
    table.add_column("Memory", no_wrap=True)
    table.add_column("What was seen", ratio=6)
    for each in report.sorted_findings:
        verdict = each.ruling.verdict
        finding = Text.assemble((each.diagnostic.code, "bold"), " ", place(each.diagnostic))
        table.add_row(Text(verdict.value, style=_STYLES[verdict]), finding, _memory(each.ruling), evidence(each))
    return table


def _memory(ruling: Ruling) -> str:
    if ruling.verdict is not Verdict.CONFIRMED:
        return ""
    if ruling.bytes_per_step is not None:
        return f"+{in_bytes(ruling.bytes_per_step)} {ruling.memory}\nper {ruling.per}"
    if ruling.bytes_at_peak is None:
        return ruling.memory or ""
    return f"{in_bytes(ruling.bytes_at_peak)} {ruling.memory}"


def _comparison(comparison: Comparison) -> Iterator[Text]:
    for line in comparison_lines(comparison):
        yield Text(line.text, style=_TONES[line.tone])


def _summary(report: VerifyReport) -> Text:
    failure = report.failure
    counts = report.counts
    parts = [f"{counts[verdict]} {verdict.value.lower()}" for verdict in Verdict if counts[verdict]]
    text = f"{counted(len(report.judged), 'finding')}: {', '.join(parts)}." if parts else "No findings to verify."
    if failure:
        return Text.assemble((f"Could not verify everything: {failure}", "bold red"), f"\n{text}")
    return Text(text, style="bold")
