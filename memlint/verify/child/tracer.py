"""Tells when a watched line begins and when it has run.

There are two ways to know, with the same answers. Where Python has ``sys.monitoring`` (3.12 and later), only the code
objects that hold a watched row are instrumented, and everything else runs as fast as ever. Elsewhere a trace function
(``sys.settrace``) sees every call, but follows only the frames of such code objects.
"""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from memlint.verify.plan import WatchedLine


class Observer(Protocol):
    """Looks at one watched line."""

    line: WatchedLine

    def begin(self, frame: types.FrameType) -> None:
        """The line is about to run in ``frame``."""

    def end(self, frame: types.FrameType) -> None:
        """It has run, to its end or to an exception."""

    def left_loop(self) -> None:
        """The loop around it has ended."""

    def left_function(self) -> None:
        """The function that holds it has returned (or yielded)."""


class Tracer(Protocol):
    """Follows the frames of the thread that calls :meth:`start`, until :meth:`stop`."""

    def start(self) -> None:
        """Begin to follow calls."""

    def join(self, frame: types.FrameType | None) -> None:
        """Follow the frames that are running already: ``frame`` and those that have called it."""

    def stop(self) -> None:
        """End it."""


def tracer(observers: Iterable[Observer], failed: Callable[[Exception], None]) -> Tracer:
    """The best that this Python has. ``failed`` is told what an observer raises; the script never sees it."""
    tool = MonitoringTracer.free_tool()
    return TraceFunction(observers, failed) if tool is None else MonitoringTracer(observers, failed, tool)


class _Watched:
    """Which code objects hold a watched row."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._by_path: dict[str, list[Observer]] = {}
        for each in observers:
            self._by_path.setdefault(os.path.realpath(each.line.path), []).append(each)
        self._by_file: dict[str, list[Observer]] = {}
        """By the file name as code objects have it."""
        self._by_code: dict[int, tuple[types.CodeType, tuple[Observer, ...]]] = {}
        """With the code objects, so that their identities stay their own."""

    def __bool__(self) -> bool:
        return bool(self._by_path)

    def in_code(self, code: types.CodeType) -> tuple[Observer, ...]:
        """Those who look at a row of ``code`` itself, not of functions inside it."""
        known = self._by_file.get(code.co_filename)
        if known is None:
            path = os.path.realpath(code.co_filename)
            known = self._by_file[code.co_filename] = self._by_path.get(path, [])
        if not known:
            return ()
        entry = self._by_code.get(id(code))
        if entry is None:
            rows = {row for _, _, row in code.co_lines() if row is not None}
            entry = self._by_code[id(code)] = (code, tuple(each for each in known if _holds(code, rows, each.line)))
        return entry[1]


_INNER = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
"""Code that belongs to the statement around it."""


def _holds(code: types.CodeType, rows: set[int], line: WatchedLine) -> bool:
    first, last = line.rows
    return code.co_name not in _INNER and any(first <= row <= last for row in rows)


@dataclass(slots=True)
class _Spot:
    observer: Observer
    running: bool = False
    in_loop: bool = False
    reached: bool = False


class _Spots:
    """Where one frame stands towards its watched lines."""

    __slots__ = ("_spots",)

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._spots = [_Spot(each) for each in observers]

    def reach(self, row: int, frame: types.FrameType) -> None:
        """The frame is about to run ``row``."""
        for spot in self._spots:
            self._move(spot, row, frame)

    @staticmethod
    def _move(spot: _Spot, row: int, frame: types.FrameType) -> None:
        line = spot.observer.line
        inside = line.rows[0] <= row <= line.rows[1]
        if spot.running and (not inside or (line.repeats and row == line.rows[0])):
            spot.running = False
            spot.observer.end(frame)
        if line.loop is not None:
            in_loop = line.loop[0] <= row <= line.loop[1]
            if spot.in_loop and not in_loop:
                spot.observer.left_loop()
            spot.in_loop = in_loop
        if inside and not spot.running:
            spot.running = spot.reached = True
            spot.observer.begin(frame)

    def leave(self, frame: types.FrameType) -> None:
        """The frame returns, yields, or is left by an exception."""
        for spot in self._spots:
            if spot.running:
                spot.running = False
                spot.observer.end(frame)
            if spot.in_loop:
                spot.in_loop = False
                spot.observer.left_loop()
            if spot.reached:
                spot.observer.left_function()


class TraceFunction:
    """By ``sys.settrace``, which every release of Python has, and which debuggers and coverage tools use, too."""

    def __init__(self, observers: Iterable[Observer], failed: Callable[[Exception], None]) -> None:
        self._watched = _Watched(observers)
        self._failed = failed

    def start(self) -> None:
        """Begin to follow calls."""
        if self._watched:
            sys.settrace(self._called)

    def join(self, frame: types.FrameType | None) -> None:
        """Follow the frames that are running already: ``frame`` and those that have called it."""
        while frame is not None:
            if self._watched:
                frame.f_trace = self._called(frame, "call", None)
            frame = frame.f_back

    def stop(self) -> None:
        """End it."""
        sys.settrace(None)

    def _called(self, frame: types.FrameType, event: str, argument: object) -> Any:  # noqa: ARG002 - what Python passes
        observers = self._watched.in_code(frame.f_code)
        return _FrameFunction(observers, self._failed) if observers else None


class _FrameFunction:
    """The trace function of one frame."""

    def __init__(self, observers: Iterable[Observer], failed: Callable[[Exception], None]) -> None:
        self._spots = _Spots(observers)
        self._failed = failed

    def __call__(self, frame: types.FrameType, event: str, argument: object) -> Any:  # noqa: ARG002
        try:
            if event == "line":
                self._spots.reach(frame.f_lineno, frame)
            elif event == "return":
                self._spots.leave(frame)
        except Exception as error:  # noqa: BLE001 - Python would end all tracing, and the script
            self._failed(error)
        return self


_MONITORING: Any = getattr(sys, "monitoring", None)
_TOOLS = (3, 4)
"""The identifiers that Python gives no purpose: those of debuggers, coverage tools and profilers stay theirs."""


class MonitoringTracer:
    """By ``sys.monitoring`` (PEP 669), whose events come from all threads: those of others are let pass."""

    def __init__(self, observers: Iterable[Observer], failed: Callable[[Exception], None], tool: int) -> None:
        self._watched = _Watched(observers)
        self._failed = failed
        self._tool = tool
        self._thread = 0
        self._frames: dict[types.FrameType, _Spots] = {}
        """Those that are running, from their first line on."""
        self._codes: dict[int, types.CodeType] = {}
        """By identity: equal code of two modules is not the same."""
        self._rows: dict[int, dict[int, int | None]] = {}
        self._is_on = False

    @staticmethod
    def free_tool() -> int | None:
        """An identifier that nobody uses; None in a Python without ``sys.monitoring``."""
        if _MONITORING is None:
            return None
        return next((tool for tool in _TOOLS if _MONITORING.get_tool(tool) is None), None)

    def start(self) -> None:
        """Begin to follow calls."""
        if not self._watched:
            return
        self._thread = threading.get_ident()
        self._is_on = True
        _MONITORING.use_tool_id(self._tool, "memlint")
        events = _MONITORING.events
        callbacks = {
            events.PY_START: self._started,
            events.LINE: self._line,
            events.JUMP: self._jumped,
            events.PY_RETURN: self._left,
            events.PY_YIELD: self._left,
            events.PY_UNWIND: self._left,
        }
        for event, callback in callbacks.items():
            _MONITORING.register_callback(self._tool, event, callback)
        # Where an exception leaves a function cannot be asked of single code objects.
        _MONITORING.set_events(self._tool, events.PY_START | events.PY_UNWIND)

    def join(self, frame: types.FrameType | None) -> None:
        """Follow the frames that are running already: ``frame`` and those that have called it."""
        while frame is not None and self._is_on:
            self._follow(frame.f_code)
            frame = frame.f_back

    def stop(self) -> None:
        """End it."""
        if not self._is_on:
            return
        self._is_on = False
        self._frames.clear()
        _MONITORING.set_events(self._tool, 0)
        for code in self._codes.values():
            _MONITORING.set_local_events(self._tool, code, 0)
        self._codes.clear()
        _MONITORING.free_tool_id(self._tool)

    def _follow(self, code: types.CodeType) -> None:
        if id(code) in self._codes or not self._watched.in_code(code):
            return
        self._codes[id(code)] = code
        events = _MONITORING.events
        _MONITORING.set_local_events(self._tool, code, events.LINE | events.JUMP | events.PY_RETURN | events.PY_YIELD)

    # Callbacks; the frame that an event is about is the one below.

    def _started(self, code: types.CodeType, offset: int) -> Any:  # noqa: ARG002 - what Python passes
        self._follow(code)
        return _MONITORING.DISABLE

    def _line(self, code: types.CodeType, row: int) -> None:
        if threading.get_ident() == self._thread:
            self._reach(code, row, sys._getframe(1))

    def _jumped(self, code: types.CodeType, offset: int, target: int) -> Any:
        """A loop whose body stands on the row of its head comes back to no new line."""
        if target > offset:
            return _MONITORING.DISABLE
        row = self._row(code, target)
        if row is not None and row == self._row(code, offset) and threading.get_ident() == self._thread:
            self._reach(code, row, sys._getframe(1))
        return None

    def _left(self, code: types.CodeType, *_: object) -> None:
        if id(code) not in self._codes or threading.get_ident() != self._thread:
            return
        frame = sys._getframe(1)
        spots = self._frames.pop(frame, None)
        if spots is not None:
            self._safely(spots.leave, frame)

    def _reach(self, code: types.CodeType, row: int, frame: types.FrameType) -> None:
        spots = self._frames.get(frame)
        if spots is None:
            spots = self._frames[frame] = _Spots(self._watched.in_code(code))
        self._safely(spots.reach, row, frame)

    def _safely(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:  # noqa: BLE001 - it would be raised in the script
            self._failed(error)

    def _row(self, code: types.CodeType, offset: int) -> int | None:
        rows = self._rows.get(id(code))
        if rows is None:
            rows = self._rows[id(code)] = {
                place: row for start, end, row in code.co_lines() for place in range(start, end, 2)
            }
        return rows.get(offset)
