"""What one line allocated, itself or through what it called, according to a recording."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from statistics import median

from memlint.trace.events import HOST, Action, Category, MemoryEvent, Phase, Recording
from memlint.trace.frames import Frame, Stack
from memlint.verify.categories import has_phases
from memlint.verify.plan import WatchedLine


@dataclass
class LineAllocations:
    """Sizes are bytes."""

    count: int = 0
    at_peak: int = 0
    """What of it was alive when the whole run held most."""
    most_alive: int = 0
    """What of it was alive at the same time, at most."""
    recorded_bytes: int = 0
    """What operators allocated that recorded a graph."""
    at_step_ends: dict[int, int] = field(default_factory=dict)
    """By step: what of it was alive when the step was over."""
    by_place: Counter[str] = field(default_factory=Counter)
    """By the user's innermost line."""

    @property
    def where(self) -> str | None:
        """The user's line that allocated most of it."""
        return max(self.by_place, key=lambda place: self.by_place[place], default=None)

    def at_end_of_step(self) -> int:
        """What of it is alive at the end of a step, in the median."""
        return round(median(self.at_step_ends.values())) if self.at_step_ends else 0

    def growth_per_step(self, warm_up: int) -> float:
        """How much more of it is alive at the end of each step, in the median."""
        ends = [size for step, size in sorted(self.at_step_ends.items()) if step >= warm_up]
        return median(b - a for a, b in pairwise(ends)) if len(ends) > 1 else 0.0


class Allocations:
    """All allocations of a recording, by the stack that made them, and how long each of them lived.

    Made in one pass over the recording, for all lines together: a history may hold millions of events. Moments are
    numbers of events; the event that frees a block is the first moment at which the block is gone.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._by_stack: dict[int, tuple[Stack, array[int]]] = {}
        """By identity of the stack: its allocations."""
        self._ends = array("q", bytes(8 * len(recording.events)))
        """For each event that is an allocation: when the block is gone."""
        self._step_ends: list[tuple[int, int]] = []
        """Each step with the first moment after it, in order of time."""
        self._peak = -1
        """When most was allocated."""
        self.most = 0
        """How much that was."""
        self._read()

    def _read(self) -> None:
        # Where there is an accelerator, the host's memory is not what a claim about the device means.
        ignored = HOST if len(self._recording.devices()) > 1 else None
        live: dict[tuple[str, int], int] = {}
        total = 0
        step: int | None = None
        is_running = not has_phases(self._recording)
        for moment, event in enumerate(self._recording.events):
            if event.step is not None and event.step != step:
                if step is not None:
                    self._step_ends.append((step, moment))
                step = event.step
            if event.address is None or event.device == ignored:
                continue
            if event.action is Action.ALLOCATE:
                total += event.size
                self._begin(moment, event.stack)
                # An address is not handed out twice: the free of what is there was not recorded.
                self._end(live.get((event.device, event.address)), moment)
                live[event.device, event.address] = moment
            elif event.action is Action.FREE:
                total -= event.size
                self._end(live.pop((event.device, event.address), None), moment)
            is_running = is_running or event.phase is not None
            if is_running and total > self.most:
                self.most, self._peak = total, moment
        for birth in live.values():
            self._ends[birth] = len(self._ends)

    def _begin(self, moment: int, stack: Stack | None) -> None:
        if stack is not None:
            known = self._by_stack.get(id(stack))
            if known is None:
                known = self._by_stack[id(stack)] = stack, array("q")
            known[1].append(moment)

    def _end(self, birth: int | None, moment: int) -> None:
        if birth is not None:
            self._ends[birth] = moment

    @property
    def step_ends(self) -> list[int]:
        """For each step, the first moment after it."""
        return [moment for _, moment in self._step_ends]

    def at_peak(self) -> Counter[Category | None]:
        """Bytes by category when most was allocated."""
        sizes = Counter[Category | None]()
        for moment in range(self._peak + 1):
            if self._ends[moment] > self._peak:
                event = self.event(moment)
                sizes[event.category] += event.size
        return sizes

    @property
    def peak(self) -> int:
        """When most was allocated."""
        return self._peak

    def scope(self, line: WatchedLine, rows: tuple[int, int] | None = None, *, anywhere: bool = False) -> Scope:
        """The rows of ``line``, or others of its function.

        ``anywhere`` takes files for the same that have the same name in a folder of the same name, as in a recording of
        another machine.
        """
        function = line.function if self._recording.line_is_definition else None
        return Scope(line.path, line.rows if rows is None else rows, function, anywhere)

    def births(self, scope: Scope, unless: Sequence[Scope] = ()) -> Iterator[tuple[Stack, array[int]]]:
        """For each stack that passes through ``scope``, and through none of ``unless``: when it allocated a block."""
        for stack, births in self._by_stack.values():
            if scope.matches(stack) and not any(each.matches(stack) for each in unless):
                yield stack, births

    def event(self, moment: int) -> MemoryEvent:
        """What happened then."""
        return self._recording.events[moment]

    def gone(self, birth: int) -> int:
        """When a block is gone; the number of events for one that never is."""
        return self._ends[birth]

    def of(
        self, line: WatchedLine, *, anywhere: bool = False, by: Callable[[MemoryEvent], bool] | None = None
    ) -> LineAllocations:
        """What a line allocated. With ``by`` only the allocations that it accepts are counted."""
        return self.within(self.scope(line, anywhere=anywhere), by=by)

    def within(self, scope: Scope, *, by: Callable[[MemoryEvent], bool] | None = None) -> LineAllocations:
        """What was allocated in ``scope``. With ``by`` only the allocations that it accepts are counted."""
        found = LineAllocations()
        changes: list[tuple[int, int]] = []
        ends = Counter[int]()
        for _, births in self.births(scope):
            for birth in births:
                event = self._recording.events[birth]
                if by is None or by(event):
                    self._count(found, event, birth, ends)
                    changes += ((birth, event.size), (self._ends[birth], -event.size))
        found.most_alive = _most(changes)
        alive = 0
        for number, (step, _) in enumerate(self._step_ends):
            alive += ends[number]
            found.at_step_ends[step] = alive
        return found

    def recomputed_segments(self) -> list[int]:
        """Bytes that are alive after each stretch of a backward pass that runs a checkpointed function again."""
        segments: list[int] = []
        births: list[int] = []
        for moment, event in enumerate(self._recording.events):
            if event.action is not Action.ALLOCATE or event.stack is None:
                continue
            if _is_recomputed(event.stack):
                births.append(moment)
            elif births:
                segments.append(sum(self.event(each).size for each in births if self._ends[each] > moment))
                births.clear()
        return [each for each in segments if each]

    def _count(self, found: LineAllocations, event: MemoryEvent, birth: int, ends: Counter[int]) -> None:
        gone, size = self._ends[birth], event.size
        found.count += 1
        found.at_peak += size if birth <= self._peak < gone else 0
        found.recorded_bytes += size if _is_of_graph(event) else 0
        if event.stack is not None and event.stack.user is not None:
            found.by_place[str(event.stack.user)] += size
        # It is alive from the first step that ends after it was made, to the last that ends before it is gone.
        ends[bisect_right(self._step_ends, birth, key=_moment)] += size
        ends[bisect_right(self._step_ends, gone, key=_moment)] -= size


_CHECKPOINT, _ENGINE = str(Path("torch", "utils", "checkpoint.py")), str(Path("torch", "autograd", "graph.py"))


def _is_recomputed(stack: Stack) -> bool:
    """Whether a stack is in a function that a backward pass runs again, and not in one that came before.

    Between them and the function stands the engine of autograd, which calls no function for gradients itself.
    """
    files = [frame.filename for frame in stack.frames]
    engine = next((number for number, file in enumerate(files) if file.endswith(_ENGINE)), None)
    return engine is not None and any(file.endswith(_CHECKPOINT) for file in files[:engine])


def _moment(step_end: tuple[int, int]) -> int:
    return step_end[1]


def _most(changes: list[tuple[int, int]]) -> int:
    """The largest sum on the way; a block that is gone at a moment makes room for one that is made then."""
    changes.sort()
    most = alive = 0
    for _, change in changes:
        alive += change
        most = max(most, alive)
    return most


_SOFTMAX = frozenset({"aten::_softmax", "aten::softmax", "aten::_safe_softmax"})


def is_of_softmax(event: MemoryEvent) -> bool:
    """Whether softmax allocated it: attention weights, where the line runs attention."""
    in_python = event.stack is not None and event.stack.mentions("nn/functional.py", ("softmax",))
    return event.operator in _SOFTMAX or in_python


def is_of_cast(event: MemoryEvent) -> bool:
    """Whether it holds the elements of another tensor in another type, or on another device; not casts of gradients."""
    return event.operator == "aten::_to_copy" and event.phase is not Phase.BACKWARD


def _is_of_graph(event: MemoryEvent) -> bool:
    # A snapshot says it through the category only.
    return event.records_graph is True or event.category is Category.ACTIVATION


class Scope:
    """Some rows of a file; a stack may pass through them."""

    def __init__(self, path: str, rows: tuple[int, int], function: int | None, anywhere: bool) -> None:
        self._path = os.path.realpath(path)
        self._end = tuple(Path(path).parts[-2:])
        self._first, self._last = rows
        self._function = function
        """The row on which the function begins, if that is all that frames tell."""
        self._anywhere = anywhere
        self._known: dict[int, bool] = {}

    def matches(self, stack: Stack | None) -> bool:
        """Whether ``stack`` passes through these rows."""
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
