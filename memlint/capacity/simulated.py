"""A simulated run as text and as JSON: the peaks, what holds them, whether they fit, and what would make them fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlint.capacity.simulate.changes import Remedy
from memlint.capacity.simulate.run import Prediction
from memlint.config import shown
from memlint.devices import Device

_MOST_LINES = 8
"""Lines of the program that the text names; JSON has all of them."""


@dataclass(frozen=True)
class SimulatedEstimate:
    """What the run of a script on fake tensors says; ``device`` is None where the user named none."""

    script: Path
    device: Device | None
    prediction: Prediction
    remedies: Sequence[Remedy] = field(default_factory=tuple)

    @property
    def fits(self) -> bool | None:
        """Whether the step fits the device; None if that is not known, or there is no device."""
        return None if self.device is None else self.prediction.fits

    @property
    def is_complete(self) -> bool:
        """Whether the script took a step or ran a forward pass."""
        return self.prediction.is_known


def shown_size(value: float) -> str:
    """``value`` bytes in binary units."""
    if value < 2**20:
        return f"{value / 2**10:.1f} KiB"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"


def simulated_text(result: SimulatedEstimate) -> str:
    """What the command prints."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: SimulatedEstimate) -> Iterator[str]:
    prediction, outcome = result.prediction, result.prediction.outcome
    yield from (str(result.script), "")
    if not prediction.is_known:
        place = f" ({outcome.error_place})" if outcome.error_place else ""
        yield f"  nothing ran on the device: {outcome.error or 'the script took no step and ran no model'}{place}"
        return
    low, high = prediction.interval
    yield f"  {'steps':<16} {outcome.steps} on fake tensors, PyTorch {outcome.torch}"
    yield f"  {'peak allocated':<16} {shown_size(prediction.peak_allocated)}"
    expected = f"{shown_size(low)} to {shown_size(high)} on a real device"
    yield f"  {'peak reserved':<16} {shown_size(prediction.peak_reserved)} ({expected})"
    yield ""
    yield from (f"  {name:<16} {shown_size(size)}" for name, size in prediction.by_category().items())
    lines = prediction.by_line()[:_MOST_LINES]
    if lines:
        yield from ("", "  held at the peak by")
        yield from (
            f"  {shown_size(each.size):>12}  {each.category:<16} {_place(each.path, each.line)}" for each in lines
        )
    if outcome.ending in {"raised", "exited", "timed out", "died"}:
        yield from ("", f"  the run ended early: {outcome.ending}: {outcome.error}")
    yield from (f"  note: {note}" for note in outcome.notes)
    yield from _verdict(result)


def _place(path: str, line: int) -> str:
    return f"{shown(Path(path))}:{line}"


def _verdict(result: SimulatedEstimate) -> Iterator[str]:
    if result.device is not None:
        word = {True: "fits", False: "does not fit", None: "may or may not fit"}[result.fits]
        yield from ("", f"  {word}: {result.device.name} has {shown_size(result.device.usable)}")
    for remedy in result.remedies:
        fits = ", fits" if remedy.prediction.fits and result.device is not None else ""
        what = " and ".join(change.what for change in remedy.changes)
        price = "; ".join(change.price for change in remedy.changes)
        yield f"  with {what}: {shown_size(remedy.prediction.peak_reserved)}{fits} (price: {price})"


def simulated_data(result: SimulatedEstimate) -> dict[str, Any]:
    """The JSON of the command, with the keys of the estimate that is read off: sizes are bytes, null is unknown."""
    prediction = result.prediction
    known = prediction.is_known
    return {
        "script": str(result.script),
        "peak_allocated": prediction.peak_allocated if known else None,
        "peak_reserved": prediction.peak_reserved if known else None,
        "interval": list(prediction.interval) if known else None,
        "breakdown": prediction.by_category() if known else {},
        "device": None if result.device is None else {"name": result.device.name, "usable": result.device.usable},
        "fits": result.fits,
        "remedies": [
            {
                "changes": [change.what for change in remedy.changes],
                "price": [change.price for change in remedy.changes],
                "peak": remedy.prediction.peak_reserved,
                "fits": remedy.prediction.fits if result.device is not None else None,
            }
            for remedy in result.remedies
        ],
        "sources": {
            f"{share.category} {share.path}:{share.line}": {
                "file": share.path,
                "line": share.line,
                "category": share.category,
                "bytes": share.size,
            }
            for share in prediction.by_line()
        },
        "steps": prediction.outcome.steps,
        "notes": prediction.outcome.notes,
        "error": prediction.outcome.error or None,
    }
