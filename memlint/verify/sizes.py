"""Bytes as people read them."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def in_bytes(size: float) -> str:
    """``size`` in binary units with three significant digits: ``84.3 MiB``."""
    sign = "-" if size < 0 else ""
    amount = abs(float(size))
    unit = 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount /= 1024
        unit += 1
    if unit == 0:
        return f"{sign}{amount:.0f} B"
    digits = 0 if amount >= 100 else 1 if amount >= 10 else 2
    return f"{sign}{amount:.{digits}f} {_UNITS[unit]}"


def counted(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``, ``2 forward passes``."""
    plural = "es" if noun.endswith(("s", "sh", "ch", "x")) else "s"
    return f"{number:,} {noun}{plural * (number != 1)}"
