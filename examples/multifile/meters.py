"""What a run remembers about itself."""

from __future__ import annotations


class AverageMeter:
    """The mean of what it was given, each value weighted by ``count``."""

    def __init__(self) -> None:
        self.total = 0
        self.count = 0

    def update(self, value, count: int = 1) -> None:
        self.total += value * count
        self.count += count

    @property
    def average(self) -> float:
        return float(self.total) / max(self.count, 1)


class Recorder:
    """Keeps every value of a run under its name."""

    def __init__(self) -> None:
        self.values: dict[str, list] = {}

    def add(self, name: str, value) -> None:
        self.values.setdefault(name, []).append(value)
