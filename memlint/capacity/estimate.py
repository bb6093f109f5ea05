"""The estimate of a script without running it: what was read, the peak, whether it fits, and what would make it fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlint.devices import Device, UnknownDevice, device
from memlint.files import absolute, project_root
from memlint.messages import UserError
from memlint.model.sizes.capacity import FRAMEWORKS, find_module
from memlint.model.sizes.objects import Place
from memlint.model.sizes.peak import RESERVED, Peak, estimate, smaller_batch
from memlint.model.sizes.reading import Fact, Reader, Reading

FACTS = ("batch", "length", "image", "precision", "accumulation", "checkpointing")
"""What ``--set`` can say beside the names of command-line arguments."""


@dataclass(frozen=True)
class Remedy:
    """A change, and the peak with it."""

    change: str
    peak: float
    fits: bool


@dataclass
class Estimate:
    """What can be said about a script."""

    script: Path
    reading: Reading
    peak: Peak | None
    device: Device | None
    remedies: list[Remedy] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether the peak is estimated from everything that it needs."""
        return self.peak is not None and self.peak.is_complete

    @property
    def fits(self) -> bool | None:
        """Whether the step fits the device; None if that is not known, or there is no device."""
        if self.device is None or self.peak is None:
            return None
        if self.peak.total.low > self.device.usable:
            return False
        if not self.is_complete:
            return None
        if self.peak.total.high * RESERVED <= self.device.usable:
            return True
        return None if self.peak.total.likely * RESERVED <= self.device.usable else False

    @property
    def missing(self) -> list[str]:
        """What is not known."""
        parts = list(self.peak.missing) if self.peak is not None else []
        for model in self.reading.models:
            parts.extend(model.doubts()[:3])
        if not self.reading.models:
            parts.append("no model was found")
        return list(dict.fromkeys([*parts, *self.reading.unknown]))


def known_device(name: str | None) -> Device | None:
    """The device of that name, if there is a name. Raises UserError for an unknown one."""
    try:
        return device(name) if name is not None else None
    except UnknownDevice as error:
        raise UserError(str(error)) from error


def estimate_script(script: Path, device_name: str | None, overrides: Mapping[str, Any]) -> Estimate:
    """Reads ``script`` and estimates its peak. Raises UserError for an unknown device."""
    card = known_device(device_name)
    path = absolute(script)
    reading = _read(path, overrides)
    if not reading.models:
        # Many scripts do not go far without arguments that have no default.
        again = _read(path, overrides, absent_is_unknown=True)
        reading = again if again.models else reading
    for name in FACTS:
        if name in overrides:
            reading.facts[name] = Fact(overrides[name], Place(Path("--set"), 0))
            reading.unknown = [each for each in reading.unknown if each != name]
    result = Estimate(script, reading, estimate(reading), card)
    if result.fits is not True and result.peak is not None and result.peak.activations is not None:
        result.remedies = _remedies(result)
    return result


def _read(path: Path, overrides: Mapping[str, Any], *, absent_is_unknown: bool = False) -> Reading:
    root = project_root([path])

    def locate(origin: Path, name: str) -> Path | None:
        found = find_module(origin, path.parent, name)
        # A framework's own examples mean what the framework is known to make, not its source.
        return found if found is not None or name.partition(".")[0] in FRAMEWORKS else find_module(origin, root, name)

    reader = Reader(locate, _text, overrides, 3_000_000)
    reader.evaluator.absent_is_unknown = absent_is_unknown
    return reader.read(path)


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _remedies(result: Estimate) -> list[Remedy]:
    """Changes that lower the peak, and the smallest combination of them that fits."""
    reading, card = result.reading, result.device
    usable = float("inf") if card is None else card.usable
    found: list[Remedy] = []
    variants: list[tuple[str, dict[str, Any]]] = []
    if not str(reading.value("precision", "")).startswith("autocast"):
        variants.append(("autocast to bfloat16", {"autocast": True}))
    if not reading.value("checkpointing"):
        variants.append(("activation checkpointing of every block", {"checkpointing": True}))
    batch = reading.value("batch")
    if isinstance(batch, int) and batch > 1:
        smaller = smaller_batch(reading, usable)
        if smaller is not None and smaller < batch:
            text = f"micro-batch {smaller}, {-(-batch // smaller)} of them accumulated"
            variants.insert(0, (text, {"batch": smaller}))
    if len(variants) > 1:
        variants.append(("all of these", {key: value for _, change in variants for key, value in change.items()}))
    before = result.peak.total.likely if result.peak is not None else 0
    for change, options in variants:
        peak = estimate(reading, **options)
        if peak is not None and peak.activations is not None and peak.total.likely < before:
            found.append(Remedy(change, peak.total.likely, peak.total.likely * RESERVED <= usable))
    return found
