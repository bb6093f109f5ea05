"""A run on fake tensors as one self-contained page: the predicted timeline, what holds the peak, and what-ifs."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

from memlint.capacity.simulated import SimulatedEstimate, shown_size
from memlint.config import shown
from memlint.report.verification.html import STYLE, memory_chart
from memlint.trace.events import Recording
from memlint.verify.timeline import timeline


def simulated_html(result: SimulatedEstimate) -> str:
    """The page. Raises :class:`memlint.messages.UserError` where plotly is missing."""
    return Template(_PAGE).substitute(
        title=escape(f"memlint estimate {result.script}"),
        style=STYLE,
        summary=_summary(result),
        chart=_chart(result.prediction.recording),
        lines=_lines(result),
        remedies=_remedies(result),
        notes="".join(f"<li>{escape(note)}</li>" for note in result.prediction.outcome.notes),
    )


def _summary(result: SimulatedEstimate) -> str:
    prediction, outcome = result.prediction, result.prediction.outcome
    if not prediction.is_known:
        return f'<p class="failure">{escape(outcome.error or "the script took no step and ran no model")}</p>'
    low, high = prediction.interval
    figures = [
        ("peak allocated", shown_size(prediction.peak_allocated)),
        ("peak reserved", shown_size(prediction.peak_reserved)),
        ("reserved on a real device", f"{shown_size(low)} to {shown_size(high)}"),
    ]
    if result.device is not None:
        word = "fits" if result.fits else "does not fit"
        figures.append((f"{result.device.name} has {shown_size(result.device.usable)}", word))
    cells = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in figures)
    steps = f"<p>{outcome.steps} steps on fake tensors, PyTorch {escape(outcome.torch)}</p>"
    return f'{steps}<div class="figures">{cells}</div>'


def _chart(recording: Recording | None) -> str:
    busiest = (
        max(recording.devices(), key=lambda name: len(list(recording.of(name)))) if recording is not None else None
    )
    found = timeline(recording, busiest) if recording is not None and busiest is not None else None
    return memory_chart(found) if found is not None and found.times else "<p>There is no recording to draw.</p>"


def _lines(result: SimulatedEstimate) -> str:
    rows = (
        f'<tr><td class="size">{shown_size(share.size)}</td><td>{escape(share.category.replace("_", " "))}</td>'
        f"<td>{escape(shown(Path(share.path)))}:{share.line}</td></tr>"
        for share in result.prediction.by_line()
    )
    return f"<table>{''.join(rows)}</table>"


def _remedies(result: SimulatedEstimate) -> str:
    if not result.remedies:
        return ""
    rows = (
        f'<tr><td class="size">{shown_size(remedy.prediction.peak_reserved)}</td>'
        f"<td>{'fits' if result.device is not None and remedy.prediction.fits else ''}</td>"
        f"<td>{escape(' and '.join(change.what for change in remedy.changes))}</td>"
        f"<td>{escape('; '.join(change.price for change in remedy.changes))}</td></tr>"
        for remedy in result.remedies
    )
    head = "<tr><th>peak reserved</th><th></th><th>with</th><th>price</th></tr>"
    return f"<h2>What if</h2><table>{head}{''.join(rows)}</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>$style</style></head><body>
<h1>$title</h1>$summary
<h2>Memory by purpose</h2>$chart
<h2>Held at the peak by</h2>$lines
$remedies
<ul>$notes</ul>
<script>
const chart = document.getElementById("timeline");
function paint() { Plotly.relayout(chart, {"font.color": getComputedStyle(document.body).color}); }
if (chart && typeof Plotly !== "undefined") {
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
}
</script></body></html>
"""
