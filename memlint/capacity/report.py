"""An estimate as text, as JSON and as a page."""

from __future__ import annotations

import html
from typing import Any

from memlint.capacity.estimate import FACTS, Estimate
from memlint.config import shown
from memlint.model.sizes.objects import Place
from memlint.model.sizes.peak import RESERVED, Span

_FACTS = (*FACTS, "parameters dtype", "optimizer", "adapter", "sharding", "stage", "offload", "finder", "trainer")

_MOST_ASSUMED = 3


def _size(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def _range(span: Span) -> str:
    if span.high <= span.low * 1.001:
        return _size(span.likely)
    return f"{_size(span.likely)} ({_size(span.low)} to {_size(span.high)})"


def _where(place: Place) -> str:
    return f"{shown(place.path)}:{place.row}" if place.row else str(place.path)


def _parts(result: Estimate) -> dict[str, Span]:
    peak = result.peak
    if peak is None:
        return {}
    parts = {"parameters": peak.parameters, "gradients": peak.gradients, "optimizer state": peak.optimizer}
    if peak.activations is not None:
        parts["activations"] = peak.activations
    if peak.scores.likely:
        parts["scores of words"] = peak.scores
    return parts


def as_text(result: Estimate) -> str:
    """What the command prints."""
    lines = [str(result.script), ""]
    for model in result.reading.models:
        doubts = model.doubts()
        count = f"unknown number of parameters ({doubts[0]})" if doubts else f"{model.count():,} parameters"
        trained = any(model is each for each in result.reading.trained)
        place = f"  {_where(model.place)}" if model.place is not None else ""
        lines.append(f"  model       {model.class_name}: {count}{'' if trained else ', not trained'}{place}")
    for name in _FACTS:
        fact = result.reading.facts.get(name)
        if fact is not None:
            value = "unknown" if fact.value is None else str(fact.value)
            default = " (default of the command line)" if fact.by_command_line else ""
            lines.append(f"  {name:<11} {value}{default}  {_where(fact.place)}")
    for path, asked in list(result.reading.assumed.items())[:_MOST_ASSUMED]:
        lines.append(f"  assumed     {path} does not exist  {_where(asked)}")
    lines.append("")
    lines += [f"  {name:<16} {_range(span)}" for name, span in _parts(result).items()]
    if result.peak is not None:
        total = result.peak.total
        text = _range(total) if result.peak.activations is not None else f"at least {_size(total.low)}"
        lines.append(f"  {'peak allocated':<16} {text}")
    lines += [f"  unknown: {each}" for each in result.missing]
    lines += _verdict(result)
    return "\n".join(lines) + "\n"


def _verdict(result: Estimate) -> list[str]:
    lines = []
    if result.device is not None:
        word = {True: "fits", False: "does not fit", None: "may or may not fit"}[result.fits]
        lines += ["", f"  {word}: {result.device.name} has {_size(result.device.usable)}"]
    for remedy in result.remedies:
        fits = ", fits" if remedy.fits and result.device is not None else ""
        lines.append(f"  with {remedy.change}: {_size(remedy.peak)}{fits}")
    return lines


def as_data(result: Estimate) -> dict[str, Any]:
    """The JSON of the command: sizes are bytes, null is unknown."""
    peak = result.peak
    likely = int(peak.total.likely) if peak is not None and peak.activations is not None else None
    return {
        "peak_allocated": likely,
        "peak_reserved": None if likely is None else int(likely * RESERVED),
        "interval": None if peak is None else [int(peak.total.low), int(peak.total.high) if likely else None],
        "breakdown": {
            name: {"low": int(span.low), "likely": int(span.likely), "high": int(span.high)}
            for name, span in _parts(result).items()
        },
        "device": None if result.device is None else {"name": result.device.name, "usable": result.device.usable},
        "fits": result.fits,
        "remedies": [{"change": each.change, "peak": int(each.peak), "fits": each.fits} for each in result.remedies],
        "models": [
            {
                "class": model.class_name,
                "parameters": None if model.doubts() else model.count(),
                "trained": any(model is each for each in result.reading.trained),
                "source": None if model.place is None else _source(model.place),
            }
            for model in result.reading.models
        ],
        "sources": {
            name: {"value": fact.value, "default_of_command_line": fact.by_command_line, **_source(fact.place)}
            for name, fact in result.reading.facts.items()
            if name in _FACTS
        },
        "assumed": [{"absent": name, **_source(place)} for name, place in result.reading.assumed.items()],
        "unknown": result.missing,
    }


def _source(place: Place) -> dict[str, Any]:
    return {"file": str(place.path), "line": place.row}


def as_html(result: Estimate) -> str:
    """A page that stands alone."""
    parts = _parts(result)
    most = max([span.high for span in parts.values()] or [1]) or 1
    bars = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_range(span))}</td>"
        f'<td><div style="background:#4a78b5;height:1em;width:{span.likely / most * 20:.2f}em"></div></td></tr>'
        for name, span in parts.items()
    )
    title = f"memlint estimate: {html.escape(str(result.script))}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<body style="font-family:sans-serif;margin:2em"><h1>'
        f"{title}</h1><table>{bars}</table><pre>{html.escape(as_text(result))}</pre></body></html>\n"
    )
