"""One self-contained page: memory over time by purpose, the growth of each finding, and the lines. Needs plotly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from string import Template
from typing import Any

from memlint.messages import UserError
from memlint.report.concise import place
from memlint.report.verification.comparison import comparison_lines
from memlint.report.verification.evidence import evidence
from memlint.trace.events import Phase
from memlint.verify.report import VerifyReport
from memlint.verify.sizes import in_bytes
from memlint.verify.timeline import Timeline, timeline
from memlint.verify.verdicts import Judged, Verdict

_COLORS = {
    "parameter": "#4c78a8",
    "optimizer_state": "#9d755d",
    "input": "#72b7b2",
    "activation": "#f58518",
    "gradient": "#54a24b",
    "temporary": "#bab0ac",
    "autograd_detail": "#b279a2",
    "workspace": "#eeca3b",
    "unknown": "#888888",
}
"""By category, in the order in which they are stacked."""
_PHASES = {
    Phase.FORWARD: "#f58518",
    Phase.BACKWARD: "#54a24b",
    Phase.OPTIMIZER: "#9d755d",
    Phase.EVALUATION: "#72b7b2",
    Phase.LOAD: "#4c78a8",
}
_MOST_PHASES = 400
"""The longest ones; the others are too narrow to see."""
_STEP_GAP = 0.06
"""Of the width: steps whose numbers would touch on a phone are not numbered."""
_MOST_TICKS = 8
_CONTEXT = 2
"""Rows of source before and after a finding."""


def render(report: VerifyReport, *, color: bool = False, width: int | None = None) -> str:  # noqa: ARG001 - the page has its own
    """The page. Raises :class:`UserError` where plotly is missing."""
    memory = report.memory
    found = timeline(report.recording, memory.device) if report.recording is not None and memory is not None else None
    chart = "<p>There is no recording to draw.</p>"
    if found is not None and found.times:
        chart = memory_chart(found)
    return Template(_PAGE).substitute(
        title=escape(f"memlint verify {report.program}"),
        style=STYLE,
        summary=_summary(report),
        chart=chart,
        growth=_growth(report),
        comparison=_comparison(report),
        findings="".join(_finding(number, each, report) for number, each in enumerate(report.sorted_findings)),
        spans=json.dumps(_spans(report, found)).replace("<", "\\u003c"),
    )


def _graph_objects() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise UserError('plotly is not installed; install it with: pip install "torch-memlint[verify]"') from error
    return go


def memory_chart(found: Timeline) -> str:
    """Memory over time by category, with steps and phases. Raises :class:`UserError` where plotly is missing."""
    go = _graph_objects()
    figure = go.Figure()
    for name in [*_COLORS, *sorted(found.sizes.keys() - _COLORS.keys())]:
        sizes = found.sizes.get(name)
        if sizes and max(sizes):
            figure.add_scatter(
                x=found.times,
                y=sizes,
                name=name.replace("_", " "),
                stackgroup="memory",
                # Between two events memory stays as it is.
                line={"width": 0.5, "color": _COLORS.get(name), "shape": "hv"},
                customdata=[in_bytes(size) for size in sizes],
                hovertemplate="%{customdata}",
            )
    for step, time in _numbered(found):
        figure.add_vline(x=time, line={"width": 1, "dash": "dot", "color": "#888888"})
        figure.add_annotation(x=time, y=1.03, yref="paper", yanchor="bottom", text=str(step), showarrow=False)
    for phase, start, end in _longest_phases(found):
        band = {"type": "rect", "x0": start, "x1": end, "y0": 1.0, "y1": 1.03, "yref": "paper", "line": {"width": 0}}
        figure.add_shape(**band, fillcolor=_PHASES[phase])
    total = max(map(sum, zip(*found.sizes.values(), strict=True)))
    _style(figure, "seconds since the first forward pass", total)
    html: str = figure.to_html(full_html=False, include_plotlyjs=True, div_id="timeline", config=_CONFIG)
    return f"{_phase_key(found)}{html}"


_CONFIG = {"displaylogo": False, "responsive": True}


def _longest_phases(found: Timeline) -> list[tuple[Phase, float, float]]:
    return sorted(found.phases, key=lambda each: each[1] - each[2])[:_MOST_PHASES]


def _numbered(found: Timeline) -> Iterator[tuple[int, float]]:
    """The steps that have room for their number."""
    room = found.times[-1] * _STEP_GAP
    free = 0.0
    for step, time in found.steps:
        if time >= free:
            yield step, time
            free = time + room


def _phase_key(found: Timeline) -> str:
    """What the colors of the band above the chart mean."""
    seen = {phase for phase, _, _ in _longest_phases(found)}
    parts = [f'<span><i style="background:{_PHASES[each]}"></i>{each.value}</span>' for each in _PHASES if each in seen]
    return f'<p class="key">Above the chart: numbers of steps, and phases: {" ".join(parts)}</p>' if parts else ""


def _ticks(most: int) -> list[int]:
    """Round numbers of bytes up to ``most``, in binary units."""
    step = 1
    while most / step > _MOST_TICKS:
        step *= 2
    return list(range(0, most + step, step))


def _style(figure: Any, title: str, most: int) -> None:
    ticks = _ticks(most)
    figure.update_layout(
        hovermode="x unified",
        # However far the nearest point is, since memory is known between the points as well.
        hoverdistance=-1,
        # Above the plot, numbers of steps and plotly's buttons have a row each.
        margin={"l": 60, "r": 10, "t": 60, "b": 60},
        modebar={"bgcolor": "rgba(0,0,0,0)"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=True,
        legend={"orientation": "h", "y": -0.2},
        xaxis={"title": title, "gridcolor": _GRID, "zeroline": False},
        yaxis={
            "tickvals": ticks,
            "ticktext": [in_bytes(size) for size in ticks],
            "range": [0, most * 1.05],
            "fixedrange": True,
            "gridcolor": _GRID,
            "zerolinecolor": _GRID,
        },
    )


_GRID = "rgba(128,128,128,0.25)"


def _growth(report: VerifyReport) -> str:
    """What each confirmed finding held, each time that its line had run."""
    go = _graph_objects()
    figure = go.Figure()
    most = 0
    for each in report.sorted_findings:
        samples = report.samples(each)
        if not each.is_confirmed or len(samples) < 2:
            continue
        sizes = [
            sample.device_bytes if each.ruling.memory == "device" else sample.nodes * report.node_bytes
            for sample in samples
        ]
        most = max(most, *sizes)
        figure.add_scatter(
            x=[sample.execution for sample in samples],
            y=sizes,
            name=f"{each.diagnostic.code} {each.diagnostic.path.name}:{each.diagnostic.location.row}",
            customdata=[in_bytes(size) for size in sizes],
            hovertemplate="%{customdata}",
        )
    if not figure.data:
        return ""
    _style(figure, "executions of the line", most)
    chart = figure.to_html(full_html=False, include_plotlyjs=False, div_id="growth", config=_CONFIG)
    return f"<h2>What the findings hold</h2>{chart}"


def _summary(report: VerifyReport) -> str:
    seen, memory = report.seen, report.memory
    where = "the CPU" if seen.device == "cpu" else seen.device_name or seen.device
    ran = f"judged by {report.trace}" if report.trace else f"{seen.extent} on {where}, torch {seen.torch}"
    parts = [f"<p>{escape(ran)}</p>"]
    if report.failure:
        parts.append(f'<p class="failure">{escape(report.failure)}</p>')
    if memory is not None:
        figures = (("peak allocated", memory.peak_allocated), ("peak reserved", memory.peak_reserved))
        cells = "".join(f"<div><b>{in_bytes(size)}</b>{name}</div>" for name, size in figures)
        counts = "".join(f"<div><b>{report.counts[verdict]}</b>{verdict.value.lower()}</div>" for verdict in Verdict)
        parts.append(f'<div class="figures">{cells}{counts}</div>')
    parts.append(_ranks(report))
    return "".join(parts)


def _ranks(report: VerifyReport) -> str:
    """With several processes, the peak of each."""
    rows = "".join(
        f"<tr><td>rank {rank}</td><td class=size>{in_bytes(figures.peak_allocated)}</td>"
        f"<td>{'the worst' if figures is report.memory else ''}</td></tr>"
        for rank, figures in report.ranks
    )
    return f"<table>{rows}</table>" if rows else ""


def _comparison(report: VerifyReport) -> str:
    """The script against its copy with fixes."""
    if report.comparison is None:
        return ""
    lines = [f'<span class="{tone.value}">{escape(text)}</span>' for text, tone in comparison_lines(report.comparison)]
    return "<h2>As it is, and with fixes</h2><pre class=comparison>{}</pre>".format("\n".join(lines))


def _finding(number: int, each: Judged, report: VerifyReport) -> str:
    ruling = each.ruling
    size = ""
    if each.is_confirmed:
        per = f" per {ruling.per}" if ruling.bytes_per_step is not None else ""
        amount = ruling.bytes_per_step if ruling.bytes_per_step is not None else ruling.bytes_at_peak
        size = "" if amount is None else f"<b>{in_bytes(amount)}</b> {ruling.memory}{per}"
    style = ruling.verdict.value.lower().replace(" ", "-")
    return (
        f'<article class="{style}" id="finding-{number}"><header><span class="verdict">{ruling.verdict.value}</span> '
        f"<code>{escape(each.diagnostic.code)}</code> {escape(place(each.diagnostic))} {size} "
        f'<a href="#timeline" data-finding="{number}">show in the timeline</a></header>'
        f"<p>{_prose(each.diagnostic.message)}</p><p>{_prose(evidence(each))}</p>"
        f"<pre>{_excerpt(each, report)}</pre></article>"
    )


def _prose(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


_CODE = re.compile(r"`([^`]+)`")


def _excerpt(each: Judged, report: VerifyReport) -> str:
    row = each.diagnostic.location.row
    text = next((result.text for result in report.results if result.path == each.diagnostic.path), None) or ""
    rows = text.splitlines()
    return "\n".join(_rows(rows, row))


def _rows(rows: list[str], marked: int) -> Iterator[str]:
    for number in range(max(1, marked - _CONTEXT), min(len(rows), marked + _CONTEXT) + 1):
        line = f"{number:>5}  {escape(rows[number - 1])}"
        yield f"<mark>{line}</mark>" if number == marked else line


def _spans(report: VerifyReport, found: Timeline | None) -> dict[int, list[float]]:
    """For each finding, the seconds in which its line ran."""
    spans = {}
    steps = found.steps if found is not None else []
    end = found.times[-1] if found is not None and found.times else 0.0
    for number, each in enumerate(report.sorted_findings):
        ran = report.steps_of(each)
        starts = [time for step, time in steps if step in ran]
        ends = [time for step, time in steps if ran and step > max(ran)]
        if starts:
            spans[number] = [min(starts), min(ends, default=end)]
    return spans


STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --soft: #f3f5f7; --line: #d5dae0;
  --good: #1a7f37; --note: #8a5a00; --alarm: #d1242f; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ec; --back: #14171b; --soft: #20252b; --line: #39414a;
    --good: #3fb950; --note: #d29922; --alarm: #f85149; }
}
body { color: var(--text); background: var(--back); font: 15px/1.45 system-ui, sans-serif; margin: 0 auto;
  max-width: 1200px; padding: 12px; }
h1 { font-size: 1.3em; } h2 { font-size: 1.1em; }
.figures { display: flex; flex-wrap: wrap; gap: 8px; }
.figures div { background: var(--soft); border-radius: 6px; padding: 8px 14px; }
.figures b { display: block; font-size: 1.2em; }
article { background: var(--soft); border-left: 4px solid var(--line); border-radius: 4px; margin: 12px 0;
  padding: 8px 12px; }
article.confirmed { border-color: var(--alarm); } article.refuted { border-color: var(--good); }
article header { overflow-wrap: anywhere; }
.key span { white-space: nowrap; margin-left: 8px; } .key i { display: inline-block; width: 12px; height: 8px;
  margin-right: 4px; } .key { margin: 0; font-size: 0.85em; }
.verdict, .heading { font-weight: 600; } .failure, .alarm { color: var(--alarm); font-weight: 600; }
.good { color: var(--good); } .note { color: var(--note); }
.comparison { white-space: pre-wrap; }
pre { background: var(--back); overflow-x: auto; padding: 8px; } mark { background: #ffd33d55; color: inherit; }
#timeline { height: 420px; } #growth { height: 320px; }
table { border-collapse: collapse; } td, th { padding: 2px 12px 2px 0; text-align: left; }
td.size { text-align: right; white-space: nowrap; }
"""
"""What the pages look like, in bright and in dark surroundings."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>$style</style></head><body>
<h1>$title</h1>$summary
<h2>Memory by purpose</h2>$chart
$growth
$comparison
<h2>Findings</h2>$findings
<script>
const spans = $spans;
const charts = ["timeline", "growth"].map(id => document.getElementById(id)).filter(Boolean);
function paint() {
  const text = getComputedStyle(document.body).color;
  for (const chart of charts) Plotly.relayout(chart, {"font.color": text});
}
if (typeof Plotly !== "undefined") {
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  for (const link of document.querySelectorAll("a[data-finding]")) {
    const span = spans[link.dataset.finding];
    if (!span) link.remove();
    else link.addEventListener("click", () => Plotly.relayout("timeline", {"xaxis.range": span}));
  }
}
</script></body></html>
"""
