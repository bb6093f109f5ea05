"""Tells when a watched line begins and when it has run, by tracing the functions that hold one.

The tracer is a trace function of Python (``sys.settrace``), which sees every call but follows only frames whose code
has a watched row. It works alike in all releases of Python, so that one run of a script can be compared with another.
"""

from __future__ import annotations

import os
import sys
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


class Tracer:
    """Follows the frames of the calling thread from :meth:`start` to :meth:`stop`."""

    def __init__(self, observers: Iterable[Observer], failed: Callable[[Exception], None]) -> None:
        self._by_path: dict[str, list[Observer]] = {}
        for each in observers:
            self._by_path.setdefault(os.path.realpath(each.line.path), []).append(each)
        self._by_file: dict[str, list[Observer]] = {}
        """By the file name as code objects have it."""
        self._by_code: dict[int, tuple[types.CodeType, tuple[Observer, ...]]] = {}
        self._failed = failed

    def start(self) -> None:
        """Begin to follow calls."""
        if self._by_path:
            sys.settrace(self._called)

    def join(self, frame: types.FrameType | None) -> None:
        """Follow the frames that are running already: ``frame`` and those that have called it."""
        while frame is not None:
            if self._by_path:
                frame.f_trace = self._called(frame, "call", None)
            frame = frame.f_back

    @staticmethod
    def stop() -> None:
        """End it."""
        sys.settrace(None)

    def _called(self, frame: types.FrameType, event: str, argument: object) -> Any:  # noqa: ARG002 - what Python passes
        filename = frame.f_code.co_filename
        known = self._by_file.get(filename)
        if known is None:
            known = self._by_file[filename] = self._by_path.get(os.path.realpath(filename), [])
        if not known:
            return None
        observers = self._in_code(frame.f_code, known)
        return _FrameTracer(observers, self._failed) if observers else None

    def _in_code(self, code: types.CodeType, candidates: list[Observer]) -> tuple[Observer, ...]:
        entry = self._by_code.get(id(code))
        if entry is None:
            rows = {row for _, _, row in code.co_lines() if row is not None}
            found = tuple(each for each in candidates if _holds(code, rows, each.line))
            entry = self._by_code[id(code)] = (code, found)
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


class _FrameTracer:
    """The trace function of one frame."""

    def __init__(self, observers: Iterable[Observer], failed: Callable[[Exception], None]) -> None:
        self._spots = [_Spot(each) for each in observers]
        self._failed = failed

    def __call__(self, frame: types.FrameType, event: str, argument: object) -> Any:  # noqa: ARG002
        try:
            if event == "line":
                self._line(frame)
            elif event == "return":
                self._return(frame)
        except Exception as error:  # noqa: BLE001 - Python would end all tracing, and the script
            self._failed(error)
        return self

    def _line(self, frame: types.FrameType) -> None:
        row = frame.f_lineno
        for spot in self._spots:
            self._move(spot, row, frame)

    @staticmethod
    def _move(spot: _Spot, row: int, frame: types.FrameType) -> None:
        line = spot.observer.line
        inside = line.rows[0] <= row <= line.rows[1]
        if spot.running and (not inside or row == line.rows[0] == line.rows[1]):
            # A loop of one line comes back to itself.
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

    def _return(self, frame: types.FrameType) -> None:
        for spot in self._spots:
            if spot.running:
                spot.running = False
                spot.observer.end(frame)
            if spot.in_loop:
                spot.in_loop = False
                spot.observer.left_loop()
            if spot.reached:
                spot.observer.left_function()
