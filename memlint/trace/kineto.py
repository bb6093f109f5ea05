"""Profiler traces: the Chrome trace files of ``torch.profiler`` (Kineto), plain or gzipped.

Memory appears as instant events called ``[memory]``. Traces from before 2022 give neither addresses nor totals. A
``[memory]`` event has no stack of its own: its operator and Python functions are those that were running on its thread
at that time. The profiler names a Python function by the line on which it *begins* (or, for those already running when
the profiler started, the line that they had reached), so that a frame points at a function rather than at a line.

Sizes are blocks as they were allocated: rounded on CUDA, as requested on the host. Totals are the allocator's own on
CUDA; on the host they count from the beginning of the recording.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memlint.trace.collection import paused_collection
from memlint.trace.errors import TraceError
from memlint.trace.events import HOST, Action, Mark, MemoryEvent, Origin, Phase, Recording
from memlint.trace.frames import Frame, Stack, StackTable
from memlint.trace.json_stream import EventStream
from memlint.trace.labels import label

_DEVICE_TYPES = (
    "cpu",
    "cuda",
    "mkldnn",
    "opengl",
    "opencl",
    "ideep",
    "hip",
    "fpga",
    "maia",
    "xla",
    "vulkan",
    "metal",
    "xpu",
    "mps",
    "meta",
    "hpu",
    "ve",
    "lazy",
    "ipu",
    "mtia",
    "privateuseone",
)
"""By number; ``c10/core/DeviceType.h``."""
_HOST_TYPE = 0

_OPERATORS = frozenset({"cpu_op", "Operator"})
_ANNOTATIONS = frozenset({"user_annotation"})
_FUNCTIONS = frozenset({"python_function"})
"""Categories of spans; ``Operator`` was the name until 2022, for annotations as well."""
_ANNOTATION_SIGN = "#"
"""In the names of annotations (``Optimizer.step#SGD.step``), not in those of operators (``aten::add``)."""

_FUNCTION = re.compile(r"(?P<filename>.+)\((?P<line>\d+)\): (?P<function>.+)", re.DOTALL)
_BACKWARD = re.compile(r"autograd::engine::evaluate_function|torch::autograd::|\w+Backward\d*$")
MAX_SPANS = 50_000_000
"""Operators, Python functions and memory events of one trace; each takes about 60 bytes while it is read."""


def read_kineto(path: Path) -> Recording:
    """The recording in a profiler trace. Raises :class:`TraceError`."""
    reader = _KinetoReader(path)
    with paused_collection():
        for event in EventStream(path):
            reader.add(event)
        return reader.recording()


@dataclass(slots=True)
class _Thread:
    """What one thread did: spans in columns, which take a tenth of the memory of objects."""

    starts: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))
    names: array[int] = field(default_factory=lambda: array("l"))
    """Indices into the reader's table of spans."""
    memory: list[MemoryEvent] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Span:
    """What all spans of one name have in common."""

    name: str
    frame: Frame | None = None
    """Set for Python functions."""
    is_operator: bool = False
    is_annotation: bool = False
    records_graph: bool = False
    call_stack: Stack | None = None
    """The operator's own stack, in the traces of 2021."""

    @property
    def is_backward(self) -> bool:
        return self.is_operator and _BACKWARD.match(self.name) is not None


class _KinetoReader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = StackTable()
        self._threads: dict[str, _Thread] = {}
        self._spans: list[_Span] = []
        self._span_numbers: dict[object, int] = {}
        self._call_stacks: dict[str, Stack | None] = {}
        self._marks: list[Mark] = []
        self._count = 0
        self._has_functions = False

    # One event of the file

    def add(self, event: dict[str, Any]) -> None:
        kind = event.get("ph")
        if kind == "X":
            self._add_span(event)
        elif kind == "i" and event.get("name") in ("[memory]", "[OutOfMemory]"):
            self._add_memory(event)

    def _thread(self, event: dict[str, Any]) -> _Thread:
        self._count += 1
        if self._count > MAX_SPANS:
            raise TraceError(f"{self._path}: more than {MAX_SPANS:,} events; record fewer steps")
        # Once written as a number, once as text: in 2021 within the same file.
        return self._threads.setdefault(f"{event.get('pid')}/{event.get('tid')}", _Thread())

    def _add_span(self, event: dict[str, Any]) -> None:
        category, name = event.get("cat"), event.get("name")
        start, duration = event.get("ts"), event.get("dur")
        if not isinstance(name, str) or not isinstance(start, (int, float)) or not isinstance(duration, (int, float)):
            return
        if category in _FUNCTIONS:
            number = self._function(name)
        elif category in _OPERATORS and _ANNOTATION_SIGN not in name:
            number = self._operator(name, event.get("args"))
        elif category in _ANNOTATIONS or category in _OPERATORS:
            number = self._number(("annotation", name), _Span(name, is_annotation=True))
            self._marks.append(Mark(name, float(start), float(start + duration)))
        else:
            return
        thread = self._thread(event)
        thread.starts.append(start)
        thread.ends.append(start + duration)
        thread.names.append(number)

    def _number(self, key: object, span: _Span) -> int:
        number = self._span_numbers.setdefault(key, len(self._spans))
        if number == len(self._spans):
            self._spans.append(span)
        return number

    def _function(self, name: str) -> int:
        known = self._span_numbers.get(("function", name))
        if known is not None:
            return known
        self._has_functions = True
        return self._number(("function", name), _Span(name, self._frame(name)))

    def _frame(self, text: str) -> Frame | None:
        match = _FUNCTION.fullmatch(text)
        if match is None:
            # A module ("nn.Module: Linear_0") or a built-in function; the Python functions around it are spans too.
            return None
        return self._table.frame(match["filename"], int(match["line"]), match["function"])

    def _operator(self, name: str, args: object) -> int:
        fields = args if isinstance(args, dict) else {}
        text = fields.get("Call stack")
        records_graph = "Sequence number" in fields
        key = ("operator", name, records_graph, text if isinstance(text, str) else "")
        known = self._span_numbers.get(key)
        if known is not None:
            return known
        stack = self._call_stack(text) if isinstance(text, str) else None
        return self._number(key, _Span(name, None, is_operator=True, records_graph=records_graph, call_stack=stack))

    def _call_stack(self, text: str) -> Stack | None:
        if text not in self._call_stacks:
            frames = (self._frame(part) for part in text.split(";"))
            self._call_stacks[text] = self._table.stack(tuple(frame for frame in frames if frame is not None))
        return self._call_stacks[text]

    def _add_memory(self, event: dict[str, Any]) -> None:
        args = event.get("args")
        time = event.get("ts")
        size = args.get("Bytes") if isinstance(args, dict) else None
        if not isinstance(args, dict) or not isinstance(size, int) or not isinstance(time, (int, float)):
            raise TraceError(f"{self._path}: not a profiler trace of PyTorch (a memory event without Bytes)")
        device = _device(args)
        action = Action.ALLOCATE if size >= 0 else Action.FREE
        if event["name"] == "[OutOfMemory]":
            action = Action.OUT_OF_MEMORY
        address = args.get("Addr")
        self._thread(event).memory.append(
            MemoryEvent(
                action,
                device,
                address if isinstance(address, int) and address else None,
                abs(size) if device == HOST else None,
                abs(size),
                float(time),
                total_allocated=_total(args, "Total Allocated"),
                total_reserved=_total(args, "Total Reserved"),
            )
        )

    # The whole

    def recording(self) -> Recording:
        calls: Counter[tuple[str, str]] = Counter()
        for thread in self._threads.values():
            _Nesting(thread, self._spans, self._table, calls).attach()
        events = [event for thread in self._threads.values() for event in thread.memory]
        self._threads.clear()
        events.sort(key=lambda event: event.time_us or 0.0)
        recording = Recording(
            Origin.PROFILER,
            events,
            marks=sorted(self._marks, key=lambda mark: mark.start_us),
            calls=calls,
            line_is_definition=self._has_functions,
        )
        _find_baseline(recording)
        if not events:
            recording.notes.append("no memory events: the profiler ran without profile_memory=True")
        elif all(event.address is None for event in events):
            recording.notes.append("no addresses: frees cannot be told apart, only totals are known")
        label(recording)
        return recording


class _Nesting:
    """Goes through a thread's spans and memory events by time, knowing which spans are open."""

    def __init__(self, thread: _Thread, spans: list[_Span], table: StackTable, calls: Counter[tuple[str, str]]) -> None:
        self._thread = thread
        self._spans = spans
        self._table = table
        self._calls = calls
        self._open: list[tuple[float, int, str]] = []
        """Of the open spans, outermost first: end, number, and the innermost operator or annotation so far."""

    def attach(self) -> None:
        """Set operator, stack and phase of the thread's memory events, and count what called what."""
        order = self._ordered_spans()
        following = next(order, None)
        for event in sorted(self._thread.memory, key=lambda event: event.time_us or 0.0):
            time = event.time_us or 0.0
            while following is not None and self._thread.starts[following] <= time:
                self._enter(following)
                following = next(order, None)
            self._close(time)
            self._describe(event)
        while following is not None:
            self._enter(following)
            following = next(order, None)

    def _enter(self, index: int) -> None:
        self._close(self._thread.starts[index])
        number = self._thread.names[index]
        span = self._spans[number]
        caller = self._open[-1][2] if self._open else ""
        if span.is_operator:
            self._calls[caller, span.name] += 1
        if span.is_operator or span.is_annotation:
            caller = span.name
        self._open.append((self._thread.ends[index], number, caller))

    def _ordered_spans(self) -> Iterator[int]:
        """By start; of those that start together, the one that ends last is the outermost."""
        starts, ends = self._thread.starts, self._thread.ends
        return iter(sorted(range(len(starts)), key=lambda index: (starts[index], -ends[index])))

    def _close(self, time: float) -> None:
        while self._open and self._open[-1][0] < time:
            self._open.pop()

    def _describe(self, event: MemoryEvent) -> None:
        spans = [self._spans[number] for _, number, _ in reversed(self._open)]
        operators = [span for span in spans if span.is_operator]
        if operators:
            event.operator = operators[0].name
            backward = any(span.is_backward for span in operators)
            event.records_graph = not backward and any(span.records_graph for span in operators)
            if backward:
                event.phase = Phase.BACKWARD
        frames = tuple([span.frame for span in spans if span.frame is not None])
        event.stack = self._table.stack(frames) or next(
            (span.call_stack for span in operators if span.call_stack is not None), None
        )


def _find_baseline(recording: Recording) -> None:
    """What was live before: blocks that are freed without having been allocated, and what the first totals imply."""
    live: set[tuple[str, int]] = set()
    named: dict[str, int] = {}
    for event in recording.events:
        if event.device not in recording.baseline_bytes:
            change = event.size if event.action is Action.ALLOCATE else -event.size
            absolute = event.device != HOST and event.total_allocated is not None
            recording.baseline_bytes[event.device] = (event.total_allocated or 0) - change if absolute else 0
            named[event.device] = 0
        if event.address is None:
            continue
        key = (event.device, event.address)
        if event.action is Action.ALLOCATE:
            live.add(key)
        elif event.action is Action.FREE and key not in live:
            named[event.device] += event.size
            recording.baseline.append(
                MemoryEvent(Action.ALLOCATE, event.device, event.address, event.requested_bytes, event.block_bytes)
            )
        else:
            live.discard(key)
    for device, size in named.items():
        recording.baseline_bytes[device] = max(recording.baseline_bytes[device], size)


def _device(args: dict[str, Any]) -> str:
    kind, index = args.get("Device Type", _HOST_TYPE), args.get("Device Id", -1)
    if kind == _HOST_TYPE:
        return HOST
    known = isinstance(kind, int) and 0 < kind < len(_DEVICE_TYPES)
    name = _DEVICE_TYPES[kind] if known else f"device type {kind}"
    return f"{name}:{index if isinstance(index, int) and index >= 0 else 0}"


def _total(args: dict[str, Any], key: str) -> int | None:
    value = args.get(key)
    return value if isinstance(value, int) else None
