"""GPUs and how much of their memory a process can use."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

_TABLE = Path(__file__).parent / "devices.json"

CONTEXT = (300_000_000, 500_000_000, 800_000_000)
"""Bytes of a device that the CUDA context and loaded kernels take, at least, likely and at most.

Public reports say 300 to 500 MB (https://okoge-kaz.github.io/tools/memory-estimator), and more with the kernels of
several libraries; none was measured for memlint.
"""
_SMALLEST_CARD = 1 << 30


def context(usable: int) -> tuple[int, int, int]:
    """What is not PyTorch's of the ``usable`` bytes of a device, at least, likely and at most.

    There is no card of less than a GiB: so few bytes are the share that PyTorch may take, of a test for instance.
    """
    return CONTEXT if usable >= _SMALLEST_CARD else (0, 0, 0)


class UnknownDevice(ValueError):
    """No such device is known; the message names the nearest ones."""


class Device(NamedTuple):
    """One kind of GPU."""

    key: str
    """What it is called on the command line: ``A100-80GB``."""
    name: str
    """As the driver names it."""
    memory: int
    """Bytes on the card, as the maker states them (GiB for GB)."""
    usable: int
    """Bytes that the driver says there are in all (``torch.cuda.get_device_properties(0).total_memory``)."""
    capability: tuple[int, int]
    """CUDA compute capability."""
    processors: int
    """Streaming multiprocessors."""
    source: str
    """Where ``usable`` was read."""
    aliases: tuple[str, ...] = ()
    """Other names, cloud instances among them; an instance stands for one of its GPUs."""


@cache
def devices() -> tuple[Device, ...]:
    """Every known device, by memory."""
    entries = json.loads(_TABLE.read_text("utf-8"))["devices"]
    found = [
        Device(**{**entry, "capability": tuple(entry["capability"]), "aliases": tuple(entry["aliases"])})
        for entry in entries
    ]
    return tuple(sorted(found, key=lambda each: (each.memory, each.key)))


def device(name: str) -> Device:
    """The device of this name or alias, whatever its case and punctuation. Raises :class:`UnknownDevice`.

    A size such as ``24GB`` or ``23.5GiB`` is a device of the newest generation that has just that much.
    """
    # An instance of a cloud is named family.size: all sizes of a family have the same GPUs.
    wanted, family = _plain(name), _plain(name.partition(".")[0])
    for each in devices():
        if {wanted, family} & {_plain(other) for other in (each.key, each.name, *each.aliases)}:
            return each
    without_size = [each for each in devices() if wanted in _shortened(each.key)]
    if len(without_size) == 1:
        return without_size[0]
    size = _size(name)
    if size is not None:
        return Device(name, name, size, size, (8, 0), 108, "as given")
    near = [each.key for each in devices() if wanted and wanted in _plain(each.key)]
    known = ", ".join(near or [each.key for each in devices()])
    raise UnknownDevice(f"no device is called {name!r}; known are {known}")


def _shortened(key: str) -> set[str]:
    """``A100-40`` and ``A100`` for ``A100-40GB``, as :func:`_plain` writes them."""
    model, _, size = key.rpartition("-")
    return {_plain(key.removesuffix("GB")), _plain(model)} if _size(size) is not None else set()


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == ".")


def _size(text: str) -> int | None:
    lower = text.lower().strip()
    for suffix, unit in (("gib", 1 << 30), ("gb", 1 << 30), ("mib", 1 << 20)):
        if lower.endswith(suffix):
            try:
                return int(float(lower.removesuffix(suffix)) * unit)
            except ValueError:
                return None
    return None
