"""Where the time of a run goes: seconds of processor time by stage, counted only when somebody wants to know."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Seconds = dict[str, float]
"""What each stage has taken."""

_NOTHING = nullcontext()


class Clock:
    """Adds up what stages take. A stage within another counts for itself only."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.total = 0.0
        """All seconds of all stages."""
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is done inside belongs to ``name``."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
            self.total += now - self._since
        self._since = now

    def taken(self) -> Seconds:
        """The seconds since they were last taken."""
        seconds, self.seconds = self.seconds, defaultdict(float)
        return dict(seconds)


class _Running:
    clock: Clock | None = None


def start() -> None:
    """Begins to count in this process."""
    _Running.clock = Clock()


def taken() -> Seconds:
    """What stages have taken in this process since it was last asked for; nothing if nobody counts."""
    return _Running.clock.taken() if _Running.clock is not None else {}


def finished() -> Seconds:
    """What this process has taken for itself until now, all that no stage has counted as its start; ends counting."""
    clock, _Running.clock = _Running.clock, None
    counted, total = (clock.seconds, clock.total) if clock is not None else ({}, 0.0)
    return added([counted, {"start": time.process_time() - total}])


def added(parts: Iterable[Seconds]) -> Seconds:
    """The sums of each stage."""
    sums: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for name, seconds in part.items():
            sums[name] += seconds
    return dict(sums)


def stage(name: str) -> AbstractContextManager[None]:
    """What is done inside belongs to the stage ``name``."""
    return _NOTHING if _Running.clock is None else _Running.clock.stage(name)
