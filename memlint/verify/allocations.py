"""What one line allocated, itself or through what it called, according to a recording."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from statistics import median

from memlint.trace.events import HOST, Action, Category, MemoryEvent, Recording
from memlint.trace.frames import Frame, Stack
from memlint.verify.plan import WatchedLine


@dataclass
class LineAllocations:
    """Sizes are bytes."""

    events: list[MemoryEvent] = field(default_factory=list)
    at_peak: int = 0
    """What of it was alive when the whole run held most."""
    most_alive: int = 0
    """What of it was alive at the same time, at most."""
    recorded_bytes: int = 0
    """What operators allocated that recorded a graph."""
    at_step_ends: dict[int, int] = field(default_factory=dict)
    """By step: what of it was alive when the step was over."""

    @classmethod
    def of(
        cls,
        recording: Recording | None,
        line: WatchedLine,
        *,
        anywhere: bool = False,
        within_loop: bool = False,
        by: Callable[[MemoryEvent], bool] | None = None,
    ) -> LineAllocations | None:
        """None without a recording. With ``by`` only the allocations that it accepts are counted.

        ``within_loop`` counts the loop around the line, and ``anywhere`` takes files for the same that have the same
        name in a folder of the same name, as in a recording of another machine.
        """
        if recording is None:
            return None
        rows = line.loop if within_loop and line.loop is not None else line.rows
        function = line.function if recording.line_is_definition else None
        return _collect(recording, _Matcher(line.path, rows, function, anywhere), by)

    @property
    def where(self) -> str | None:
        """The user's line that allocated most of it."""
        sizes: dict[str, int] = {}
        for event in self.events:
            if event.stack is not None and event.stack.user is not None:
                place = str(event.stack.user)
                sizes[place] = sizes.get(place, 0) + event.size
        return max(sizes, key=lambda place: sizes[place], default=None)

    def at_end_of_step(self) -> int:
        """What of it is alive at the end of a step, in the median."""
        return round(median(self.at_step_ends.values())) if self.at_step_ends else 0

    def growth_per_step(self, warm_up: int) -> float:
        """How much more of it is alive at the end of each step, in the median."""
        ends = [size for step, size in sorted(self.at_step_ends.items()) if step >= warm_up]
        return median(b - a for a, b in pairwise(ends)) if len(ends) > 1 else 0.0


def _collect(
    recording: Recording, matcher: _Matcher, by: Callable[[MemoryEvent], bool] | None = None
) -> LineAllocations:
    found = LineAllocations()
    own: dict[tuple[str, int], int] = {}
    # Where there is an accelerator, the host's memory is not what a claim about the device means.
    ignored = HOST if len(recording.devices()) > 1 else None
    alive = total = most = 0
    step: int | None = None
    is_running = not has_phases(recording)
    for event in recording.events:
        if event.step is not None and event.step != step:
            if step is not None:
                found.at_step_ends[step] = alive
            step = event.step
        if event.address is None or event.device == ignored:
            continue
        if event.action is Action.ALLOCATE:
            total += event.size
            if matcher.matches(event.stack) and (by is None or by(event)):
                found.events.append(event)
                own[event.device, event.address] = event.size
                alive += event.size
                found.recorded_bytes += event.size if _is_of_graph(event) else 0
        elif event.action is Action.FREE:
            total -= event.size
            alive -= own.pop((event.device, event.address), 0)
        found.most_alive = max(found.most_alive, alive)
        is_running = is_running or event.phase is not None
        if is_running and total > most:
            most, found.at_peak = total, alive
    return found


def _is_of_graph(event: MemoryEvent) -> bool:
    # A snapshot says it through the category only.
    return event.records_graph is True or event.category is Category.ACTIVATION


class _Matcher:
    """Whether a stack passes through some rows of a file."""

    def __init__(self, path: str, rows: tuple[int, int], function: int | None, anywhere: bool) -> None:
        self._path = os.path.realpath(path)
        self._end = tuple(Path(path).parts[-2:])
        self._first, self._last = rows
        self._function = function
        """The row on which the function begins, if that is all that frames tell."""
        self._anywhere = anywhere
        self._known: dict[int, bool] = {}

    def matches(self, stack: Stack | None) -> bool:
        if stack is None:
            return False
        answer = self._known.get(id(stack))
        if answer is None:
            answer = self._known[id(stack)] = any(self._is_here(frame) for frame in stack.frames)
        return answer

    def _is_here(self, frame: Frame) -> bool:
        if not self._may_be(frame):
            return False
        if not self._anywhere:
            return _real(frame.filename) == self._path
        # A recording may name files relative to some folder.
        end = PurePosixPath(frame.filename.replace("\\", "/")).parts[-2:]
        return end == self._end[-len(end) :] if end else False

    def _may_be(self, frame: Frame) -> bool:
        if self._function is None:
            return self._first <= frame.line <= self._last
        return frame.line == self._function or (not self._function and frame.function.startswith("<module>"))


@lru_cache(maxsize=4096)
def _real(filename: str) -> str:
    return os.path.realpath(filename)


def peak_categories(recording: Recording, device: str) -> dict[str, int]:
    """Bytes of each category at the moment when most was allocated."""
    current = _Categories()
    for block in recording.baseline:
        if block.device == device:
            current.allocate(block)
    current.add(UNKNOWN, max(0, recording.baseline_bytes.get(device, 0) - current.total))
    at_peak: dict[str, int] = {}
    most = 0
    is_running = not has_phases(recording)
    for event in recording.of(device):
        if event.action is Action.ALLOCATE:
            current.allocate(event)
        elif event.action is Action.FREE:
            current.free(event)
        is_running = is_running or event.phase is not None
        if is_running and current.total > most:
            most, at_peak = current.total, dict(current.sizes)
    return {name: size for name, size in sorted(at_peak.items()) if size > 0}


UNKNOWN = "unknown"


@dataclass
class _Categories:
    """What is live, by purpose."""

    sizes: dict[str, int] = field(default_factory=dict)
    total: int = 0
    _live: dict[int, MemoryEvent] = field(default_factory=dict)

    def allocate(self, event: MemoryEvent) -> None:
        if event.address is not None:
            if event.address in self._live:
                # An address is not handed out twice: its free was not recorded.
                self.free(event)
            self._live[event.address] = event
        self.add(_name(event), event.size)

    def free(self, event: MemoryEvent) -> None:
        allocation = event if event.address is None else self._live.pop(event.address, event)
        self.add(_name(allocation), -allocation.size)

    def add(self, name: str, size: int) -> None:
        self.sizes[name] = self.sizes.get(name, 0) + size
        self.total += size


def _name(event: MemoryEvent) -> str:
    return event.category.value if event.category is not None else UNKNOWN


def has_phases(recording: Recording) -> bool:
    """Whether the recording tells a forward pass from what comes before it, such as making the data set."""
    return any(event.phase is not None for event in recording.events)
