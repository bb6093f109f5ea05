"""The estimate of a script without running it: what was read, the peak, whether it fits, and what would make it fit."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from memlint.devices import Device, UnknownDevice, device
from memlint.files import absolute, project_root
from memlint.messages import UserError
from memlint.model.sizes.capacity import FRAMEWORKS, find_module
from memlint.model.sizes.objects import Place
from memlint.model.sizes.peak import Peak, estimate, smaller_batch
from memlint.model.sizes.reading import Fact, Reader, Reading

FACTS = ("batch", "length", "image", "precision", "accumulation", "checkpointing", "ranks")
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
        usable = self.device.usable
        if self.peak.needed(usable).low > usable:
            return False
        if not self.is_complete:
            return None
        if self.peak.reserved(usable).high <= usable:
            return True
        return None if self.peak.fits(usable) else False

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


def estimate_script(
    script: Path, device_name: str | None, settings: Mapping[str, Any], arguments: Mapping[str, Any] | None = None
) -> Estimate:
    """Reads ``script`` and estimates its peak.

    ``settings`` are facts or values of its command line, ``arguments`` what else its command line says. Raises
    UserError for an unknown device, and for a setting that is no fact and that the program has no argument for, nor a
    variable of unknown value.
    """
    card = known_device(device_name)
    path = absolute(script)
    reader = read_script(path, {**(arguments or {}), **settings}, settings)
    reading = reader.reading
    for name in settings:
        if name not in FACTS and name not in reader.evaluator.overridden:
            raise UserError(
                f"--set {name}: not one of {', '.join(FACTS)}, nor an argument or an unknown variable of {script}"
            )
    for name in FACTS:
        if name in settings:
            reading.facts[name] = Fact(settings[name], Place(Path("--set"), 0))
            reading.unknown = [each for each in reading.unknown if each != name]
    result = Estimate(script, reading, estimate(reading), card)
    if result.fits is not True and result.peak is not None and result.peak.activations is not None:
        result.remedies = _remedies(result)
    return result


def read_script(path: Path, values: Mapping[str, Any], given: Mapping[str, Any]) -> Reader:
    """Who has read the script at ``path``, run with these values of its command line.

    ``given`` are values of variables that the script does not tell.
    """
    reader = _reader(path, values, given)
    reader.read(path)
    if not reader.reading.models:
        # Many scripts do not go far without arguments that have no default.
        again = _reader(path, values, given)
        again.evaluator.absent_is_unknown = True
        again.read(path)
        reader = again if again.reading.models else reader
    return reader


def _reader(path: Path, overrides: Mapping[str, Any], given: Mapping[str, Any]) -> Reader:
    root = project_root([path])

    def locate(origin: Path, name: str) -> Path | None:
        found = find_module(origin, path.parent, name)
        # A framework's own examples mean what the framework is known to make, not its source.
        return found if found is not None or name.partition(".")[0] in FRAMEWORKS else find_module(origin, root, name)

    reader = Reader(locate, _text, overrides, 3_000_000)
    reader.evaluator.given = dict(given)
    return reader


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _changes(result: Estimate) -> list[tuple[str, dict[str, Any]]]:
    """What may lower the peak, and how the estimate is told so."""
    reading, found = result.reading, []
    batch = reading.value("batch")
    if isinstance(batch, int) and batch > 1:
        smaller = smaller_batch(reading, _usable(result)) or 1
        if smaller < batch:
            found.append((f"micro-batch {smaller}, {-(-batch // smaller)} of them accumulated", {"batch": smaller}))
    if not str(reading.value("precision", "")).startswith("autocast"):
        found.append(("autocast to bfloat16", {"autocast": True}))
    if not reading.value("checkpointing"):
        found.append(("activation checkpointing of every block", {"checkpointing": True}))
    return found


def _usable(result: Estimate) -> int:
    return sys.maxsize if result.device is None else result.device.usable


def _remedies(result: Estimate) -> list[Remedy]:
    """Every single change that lowers the peak; if none of them fits, the smallest combination that does, or all."""
    changes = _changes(result)
    found = [each for change in changes if (each := _remedy(result, [change])) is not None]
    if any(each.fits for each in found):
        return found
    several = [_remedy(result, each) for count in range(2, len(changes) + 1) for each in combinations(changes, count)]
    useful = [each for each in several if each is not None]
    fitting = [each for each in useful if each.fits]
    return [*found, *(fitting[:1] or useful[-1:])]


def _remedy(result: Estimate, changes: Sequence[tuple[str, dict[str, Any]]]) -> Remedy | None:
    """These changes together; None if they do not lower the peak."""
    peak = estimate(result.reading, **{key: value for _, change in changes for key, value in change.items()})
    before = result.peak.total.likely if result.peak is not None else 0
    if peak is None or peak.activations is None or peak.total.likely >= before:
        return None
    likely = peak.total.likely
    return Remedy(" and ".join(name for name, _ in changes), likely, peak.fits(_usable(result)))
